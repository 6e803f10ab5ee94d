"""From what a customer says to the message that is sent. `compose` is the way in."""
