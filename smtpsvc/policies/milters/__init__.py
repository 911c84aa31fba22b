"""
The client's side of the milter protocol, as :mod:`smtpsvc.policies.milter` speaks it with filters.
"""
