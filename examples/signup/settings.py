"""What the shop and its workers must agree on."""

POOL = "email-pool"
USERS = "users"
MAILS = "mails"
FLAGS = "flags"
COUNTRIES = "countries"
"""The map that counts the users of each country."""

DIGESTS = "digests"
"""The map that the digests are written to, and the schedule that keeps a job for each."""

WORDING = "mail.wording"
"""The feature flag that chooses the mail's words: ``old`` or ``new``."""

USERS_KEPT = 10_000
"""How many events the stream of users keeps."""

MAIL_QUEUE_LIMIT = 1_000
WORKER_TTL = 1.0
"""Seconds after which a silent worker counts as dead: short, for the show's sake."""

ACK_GRACE_PERIOD = 2.0
SENDING_TIME = 0.02
"""Seconds that a mail takes to be sent."""
