from smtpsvc.plugins import ExtensionFactory

hold = ExtensionFactory("hold", "extending:hold", "Announce how long messages may be held.", "SECONDS")
