"""Images opened safely, one way."""
