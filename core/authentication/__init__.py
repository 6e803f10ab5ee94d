"""What both edges need of SPF, DKIM and DMARC: records, keys, canonical forms, and the judgement of a client by SPF."""
