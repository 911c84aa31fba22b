"""
What ``twistd`` and smtpsvc find here: the service, and by name the backends, the
policies, the SASL mechanisms and the checkers of passwords and tokens.

Twisted imports this file for everybody who asks for plugins, so it loads nothing of a
backend or of the service: each object knows a dotted name and imports it on use.
"""

from twisted.application.service import ServiceMaker

from smtpsvc.plugins import BackendFactory, CheckerFactory, MechanismFactory, PolicyFactory

service = ServiceMaker(
    "smtpsvc",
    "smtpsvc.tap",
    "A mail service: takes mail by SMTP and keeps it.",
    "smtpsvc",
)

maildir = BackendFactory(
    "maildir",
    "smtpsvc.backends.maildir:make",
    "DIR",
    "Keep each message as a file in the Maildir DIR, on disk before the client hears 250.",
)
null = BackendFactory(
    "null",
    "smtpsvc.backends.null:make",
    "",
    "Take every message and keep nothing; for measurements.",
)
debug = BackendFactory(
    "debug",
    "smtpsvc.backends.debug:make",
    "",
    "Print each message and keep nothing; for trying clients out.",
)
chaos = BackendFactory(
    "chaos",
    "smtpsvc.chaos:make",
    "RULES",
    "Let things go wrong in front of another backend; for trying clients out.",
)
smtp = BackendFactory(
    "smtp",
    "smtpsvc.backends.relay:make_smtp",
    "HOST:PORT",
    "Pass each message on to another SMTP server; its answers are the client's.",
)
lmtp = BackendFactory(
    "lmtp",
    "smtpsvc.backends.relay:make_lmtp",
    "HOST:PORT",
    "Pass each message on to an LMTP server, at unix:/PATH or HOST:PORT.",
)
python = BackendFactory(
    "python",
    "smtpsvc.dotted:make",
    "pkg.mod.factory",
    "Call the Python function of that dotted name; it returns the backend.",
)

scram_sha_256_plus = MechanismFactory("SCRAM-SHA-256-PLUS", "smtpsvc.sasl.scram:ScramSHA256Plus")
scram_sha_1_plus = MechanismFactory("SCRAM-SHA-1-PLUS", "smtpsvc.sasl.scram:ScramSHA1Plus")
scram_sha_256 = MechanismFactory("SCRAM-SHA-256", "smtpsvc.sasl.scram:ScramSHA256")
scram_sha_1 = MechanismFactory("SCRAM-SHA-1", "smtpsvc.sasl.scram:ScramSHA1")
external = MechanismFactory("EXTERNAL", "smtpsvc.sasl.external:External")
oauthbearer = MechanismFactory("OAUTHBEARER", "smtpsvc.sasl.bearer:OAuthBearer")
xoauth2 = MechanismFactory("XOAUTH2", "smtpsvc.sasl.bearer:XOAuth2")
cram_md5 = MechanismFactory("CRAM-MD5", "smtpsvc.sasl.cram:CramMD5")
plain = MechanismFactory("PLAIN", "smtpsvc.sasl.plain:Plain")
login = MechanismFactory("LOGIN", "smtpsvc.sasl.login:Login")
anonymous = MechanismFactory("ANONYMOUS", "smtpsvc.sasl.anonymous:Anonymous")

htpasswd = CheckerFactory(
    "htpasswd",
    "smtpsvc.checkers.htpasswd:make",
    "FILE with lines name:entry; an entry is argon2id, bcrypt, scrypt or SCRAM.",
    "twisted.cred.credentials:IUsernamePassword",
    "smtpsvc.sasl.credentials:IScramCredentials",
)
bearer = CheckerFactory(
    "bearer",
    "smtpsvc.checkers.bearer:make",
    "FILE,issuer=URL,audience=NAME with a public key in PEM or a JWK Set.",
    "smtpsvc.sasl.credentials:IBearerToken",
)
certificate = CheckerFactory(
    "certificate",
    "smtpsvc.checkers.certificate:make",
    "Nothing, or email or cn: where the name stands in a client's TLS certificate.",
    "smtpsvc.sasl.credentials:ITLSCertificate",
)

allow_policy = PolicyFactory(
    "allow",
    "smtpsvc.policies.listed:make_allow",
    "CLIENT,...,sender=PATTERN,recipient=PATTERN",
    "Take mail of the listed clients, senders and recipients only.",
)
deny_policy = PolicyFactory(
    "deny",
    "smtpsvc.policies.listed:make_deny",
    "CLIENT,...,sender=PATTERN,recipient=PATTERN",
    "Refuse the listed clients, senders and recipients.",
)
dnsbl_policy = PolicyFactory(
    "dnsbl",
    "smtpsvc.policies.dnsbl:make",
    "ZONE=CODES*WEIGHT,...,threshold=N",
    "Refuse clients that lists in the DNS advise against.",
)
domains_policy = PolicyFactory(
    "domains",
    "smtpsvc.policies.domains:make",
    "DOMAIN,...",
    "Take recipients in the listed domains only, as --domain does.",
)
early_talker_policy = PolicyFactory(
    "early-talker",
    "smtpsvc.policies.early:make",
    "TIME",
    "Let clients wait for the greeting, and refuse those that speak before it.",
)
fcrdns_policy = PolicyFactory(
    "fcrdns",
    "smtpsvc.policies.fcrdns:make",
    "",
    "Refuse clients whose address has no name that leads back to it.",
)
greylist_policy = PolicyFactory(
    "greylist",
    "smtpsvc.policies.greylist:make",
    "FILE,delay=TIME",
    "Let mail of strangers wait once.",
)
helo_policy = PolicyFactory(
    "helo",
    "smtpsvc.policies.names:make",
    "own=NAME",
    "Refuse clients whose name in EHLO or HELO cannot be theirs.",
)
rate_policy = PolicyFactory(
    "rate",
    "smtpsvc.policies.rates:make",
    "COUNT/TIME,by=KEY,of=UNIT",
    "Take so many messages, recipients, bytes or connections in a time, of each client, account, sender or mailbox.",
)
require_auth_policy = PolicyFactory(
    "require-auth",
    "smtpsvc.policies.required:make_auth",
    "STAGE",
    "Refuse clients that have not logged in, at mail, rcpt or data.",
)
require_tls_policy = PolicyFactory(
    "require-tls",
    "smtpsvc.policies.required:make_tls",
    "STAGE",
    "Refuse clients without TLS, at mail, rcpt or data.",
)
sender_mx_policy = PolicyFactory(
    "sender-mx",
    "smtpsvc.policies.mailable:make",
    "",
    "Refuse senders to whom nobody could reply.",
)
sender_login_policy = PolicyFactory(
    "sender-login",
    "smtpsvc.policies.ownership:make",
    "FILE",
    "Let accounts send as themselves only, or as FILE allows.",
)
milter_policy = PolicyFactory(
    "milter",
    "smtpsvc.policies.milter:make",
    "ENDPOINT",
    "Ask a filter that speaks the milter protocol, such as rspamd or OpenDKIM.",
)
policyd_policy = PolicyFactory(
    "policyd",
    "smtpsvc.policies.policyd:make",
    "ENDPOINT,at=STAGE",
    "Ask a policy server of Postfix.",
)
hook_policy = PolicyFactory(
    "hook",
    "smtpsvc.policies.hook:make",
    "URL,at=STAGE",
    "Ask a web server, in JSON.",
)
arc_policy = PolicyFactory(
    "arc",
    "smtpsvc.policies.arc:make",
    "SEALER,...",
    "Verify chains of seals (ARC), and believe the listed sealers.",
)
dkim_policy = PolicyFactory(
    "dkim",
    "smtpsvc.policies.dkim:make",
    "SETTING=VALUE",
    "Verify signatures (DKIM).",
)
dmarc_policy = PolicyFactory(
    "dmarc",
    "smtpsvc.policies.dmarc:make",
    "SETTING=VALUE",
    "Do as the domain in From: asks with mail that is not its own (DMARC).",
)
spf_policy = PolicyFactory(
    "spf",
    "smtpsvc.policies.spf:make",
    "SETTING=VALUE",
    "Refuse clients that may not send the sender's mail (SPF).",
)
