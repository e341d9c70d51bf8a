"""The processes that react: the relay from the outbox to Dramatiq, and the actors.

PostgreSQL is the truth of work (`credit_service.storage.tasks`); Redis only carries task ids from
the relay to the actors, may lose all of them at any time, and may deliver one twice.
"""
