"""Background processes: the relay from the outbox to Dramatiq, and the actors.

PostgreSQL holds the tasks (`credit_service.storage.tasks`). Redis only carries task ids from the
relay to the actors, may lose all of them at any time, and may deliver one twice.
"""
