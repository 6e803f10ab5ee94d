"""From the bytes of a message to what a person would read in it: total and linear. `parse` is the way in."""
