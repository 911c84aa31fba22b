from smtpsvc.plugins import BackendFactory

lists = BackendFactory("lists", "mylists:make", "FILE", "Deliver to the lists that FILE names.")
