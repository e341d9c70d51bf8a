"""The command line, `credit-service`: `app` declares the commands, others implement them."""
