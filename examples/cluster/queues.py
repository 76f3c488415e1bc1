"""What client, server and listing agree on: the cluster's address, and the queues."""

PORTS = tuple(range(7000, 7006))
URL = "redis-cluster://" + ",".join(f"127.0.0.1:{port}" for port in PORTS)
QUEUES = {"notifications": 1, "webhooks": 1, "images": 1}
EACH = 10  # tasks for each queue
