"""Make any S3 server misbehave on purpose: a proxy in front of it, and a plan of faults.

    from blockyard_faults import FaultProxy, Script, Truncate

    with FaultProxy("http://127.0.0.1:9000", Script([Truncate(after=1000)])) as proxy:
        ...  # the first request sent to proxy.url gets a reply cut short
        assert proxy.counts["truncate"] == 1

`requests.py` holds the faults that keep a request from the server, `replies.py` those that
lose, delay or damage its reply, `meaning.py` those that make a reply say something else,
`held.py` the one that hands a request to the server late, `services.py` those of services that
are nearly S3.
"""

from blockyard_faults.fault import Fault, Position, ReplyFault, RequestFault
from blockyard_faults.held import Hold
from blockyard_faults.meaning import (
    FailKeys,
    IgnoreRange,
    ShortRange,
    ShuffleXml,
    WrongRange,
)
from blockyard_faults.names import FaultyNames
from blockyard_faults.plans import (
    FAULT_RATES,
    Match,
    Plan,
    RandomFaults,
    Script,
    SeenRequest,
    any_flipped_bit,
    any_reset,
    any_truncation,
)
from blockyard_faults.proxy import FaultProxy
from blockyard_faults.replies import (
    FlipBit,
    FlipHeaderBit,
    FlipUploadBit,
    GarbageHead,
    LoseReply,
    ResetDuringBody,
    Stall,
    TrickleBody,
    Truncate,
    WrongLength,
)
from blockyard_faults.requests import (
    INJECTED_REQUEST_ID,
    ResetBefore,
    ResetDuringRequest,
    Status,
)
from blockyard_faults.services import (
    CachedListing,
    Created,
    EarlyStatus,
    HalfStored,
    IgnoreHeader,
    RangeAs200,
    SameToken,
    UntilClose,
    WebPage,
)

__all__ = [
    "FAULT_RATES",
    "INJECTED_REQUEST_ID",
    "CachedListing",
    "Created",
    "EarlyStatus",
    "FailKeys",
    "Fault",
    "FaultProxy",
    "FaultyNames",
    "FlipBit",
    "FlipHeaderBit",
    "FlipUploadBit",
    "GarbageHead",
    "HalfStored",
    "Hold",
    "IgnoreHeader",
    "IgnoreRange",
    "LoseReply",
    "Match",
    "Plan",
    "Position",
    "RandomFaults",
    "RangeAs200",
    "ReplyFault",
    "RequestFault",
    "ResetBefore",
    "ResetDuringBody",
    "ResetDuringRequest",
    "SameToken",
    "Script",
    "SeenRequest",
    "ShortRange",
    "ShuffleXml",
    "Stall",
    "Status",
    "TrickleBody",
    "Truncate",
    "UntilClose",
    "WebPage",
    "WrongLength",
    "WrongRange",
    "any_flipped_bit",
    "any_reset",
    "any_truncation",
]
