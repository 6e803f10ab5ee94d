"""One module a noun: read the request, call a service, render the answer."""
