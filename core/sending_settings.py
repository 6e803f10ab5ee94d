"""Settings of sending: each with its variable, default and meaning."""

from __future__ import annotations

from dataclasses import dataclass

from core.gateway_settings import GatewaySettings
from core.setting_values import limit, setting


@dataclass(frozen=True, slots=True)
class SendingSettings(GatewaySettings):
    """Those of sending."""

    submission: str = setting(
        "PILLARBOX_SUBMISSION",
        "127.0.0.1:2587",
        "Where customers submit mail by SMTP with STARTTLS, `host:port`, several separated by commas (production: "
        "`0.0.0.0:587`); `off` for none.",
    )
    submission_tls: str = setting(
        "PILLARBOX_SUBMISSION_TLS",
        "127.0.0.1:2465",
        "The same with TLS from the first byte (production: `0.0.0.0:465`).",
    )
    max_send_size: int = setting(
        "PILLARBOX_MAX_SEND_SIZE", 10 * 1024 * 1024, "Bytes of one message to be sent, as it is composed."
    )
    max_send_recipients: int = setting(
        "PILLARBOX_MAX_SEND_RECIPIENTS", 20, "Recipients of one message to be sent, To, Cc and Bcc together."
    )
    require_verified: str = setting(
        "PILLARBOX_REQUIRE_VERIFIED",
        "auto",
        "Whether mail may be sent from verified sending domains only: `on`, `off`, or `auto` (off while HTTP and SMTP "
        "listen on loopback and the domain is the default one, else on).",
    )
    return_host: str = setting(
        "PILLARBOX_RETURN_HOST",
        "",
        "The name that customers' `mta.<domain>` points to. Default `mta.` and the receiving domain.",
    )
    sending_ips: str = setting(
        "PILLARBOX_SENDING_IPS",
        "",
        "Addresses that mail leaves from, as others see them, separated by commas: for SPF. Default: that of the "
        "receiver's name.",
    )
    source_ips: str = setting(
        "PILLARBOX_SOURCE_IPS",
        "",
        "Addresses of this machine that connections to mail hosts are made from, separated by commas; a recipient's "
        "domain always gets the same one. Default: the system's choice.",
    )
    dmarc_reports: str = setting(
        "PILLARBOX_DMARC_REPORTS", "", "Mailbox for DMARC reports, shown in the record that customers publish."
    )
    connections_per_host: int = setting(
        "PILLARBOX_CONNECTIONS_PER_HOST", 10, "SMTP connections of one worker to one mail host."
    )
    send_threads: int = setting(
        "PILLARBOX_SEND_THREADS",
        32,
        "Mails on their way at once in each worker for priority `standard`; `priority` has half as many of its own, "
        "`digest` a quarter.",
    )
    send_hourly_limit: int = limit(
        "PILLARBOX_SEND_HOURLY_LIMIT", 0, "Mails an hour of one account, which may choose less; more wait."
    )
    send_daily_limit: int = limit(
        "PILLARBOX_SEND_DAILY_LIMIT", 0, "Mails a day of one account, which may choose less; more wait."
    )
    ramp: bool = setting(
        "PILLARBOX_RAMP", False, "Whether new sending domains begin with few mails a day, which double each day."
    )
    pause_bounce_percent: int = limit(
        "PILLARBOX_PAUSE_BOUNCE_PERCENT",
        10,
        "Sending of a domain is paused when more of a day's mail than this bounces hard (and enough was sent to tell); "
        "0 for never.",
    )
    pause_complaint_permille: int = limit(
        "PILLARBOX_PAUSE_COMPLAINT_PERMILLE",
        3,
        "The same for complaints, in thousandths (Gmail and Yahoo ask for less than 3); 0 for never.",
    )
    soft_bounce_limit: int = limit(
        "PILLARBOX_SOFT_BOUNCE_LIMIT",
        3,
        "After so many mails in a row that ended without arriving, over three days at least, an address is suppressed; "
        "0 for never.",
    )
    check_sent_spam: bool = setting(
        "PILLARBOX_CHECK_SENT_SPAM",
        False,
        "Whether rspamd or spamd sees mail before it is sent; what it calls spam is held.",
    )
    tracking_url: str = setting(
        "PILLARBOX_TRACKING_URL",
        "",
        "Where open pixels and tracked links lead; at most 90 characters. Default: `PILLARBOX_PUBLIC_URL`.",
    )
    track_opens: bool = setting("PILLARBOX_TRACK_OPENS", True, "Whether HTML mails get a pixel, unless they say.")
    track_clicks: bool = setting(
        "PILLARBOX_TRACK_CLICKS", True, "Whether links in HTML are tracked, unless a mail says."
    )
    track_text_clicks: bool = setting(
        "PILLARBOX_TRACK_TEXT_CLICKS", False, "Whether links in plain text are tracked, unless a mail says."
    )
    privacy_signals: str = setting(
        "PILLARBOX_PRIVACY_SIGNALS",
        "forget_client",
        "What becomes of an open or click by somebody who asks not to be tracked (DNT, GPC): `forget_client` (it "
        "counts, without address and program), `do_not_record`, or `ignore`.",
    )
    keep_events_days: int = limit(
        "PILLARBOX_KEEP_EVENTS_DAYS", 90, "Days events and hits of sent mail are kept; 0 for ever."
    )
