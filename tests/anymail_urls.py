"""The URLs of the Django application in `payload_readers`: django-anymail's inbound view for Postmark."""

from __future__ import annotations

from anymail.webhooks.postmark import PostmarkInboundWebhookView
from django.urls import path

urlpatterns = [path("inbound/", PostmarkInboundWebhookView.as_view())]
