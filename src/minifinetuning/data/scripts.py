"""Scripts that put no spaces between words: what stands between spaces there is no word."""

import re

__all__ = ["WITHOUT_SPACES"]

_RANGES = (
    "\u0e00-\u0fff"  # Thai, Lao, Tibetan
    "\u1000-\u109f"  # Burmese
    "\u1780-\u17ff"  # Khmer
    "\u1950-\u19ff\u1a20-\u1aaf"  # Tai Le, New Tai Lue, Tai Tham
    "\u1b00-\u1b7f\ua980-\ua9df"  # Balinese, Javanese
    "\ua9e0-\ua9ff\uaa60-\uaadf"  # more Burmese, Tai Viet
    "\u2e80-\u312f\u3190-\u4dbf"  # Kana, Bopomofo, radicals and punctuation of Chinese
    "\u4e00-\u9fff\ua000-\ua4cf"  # Han, Yi
    "\uf900-\ufaff\ufe30-\ufe4f\uff00-\uffef"  # compatible, full and half width forms
    "\U0001b000-\U0001b16f\U00020000-\U0003ffff"  # old Kana, rare Han
)

WITHOUT_SPACES = re.compile(f"[{_RANGES}]+")
"""Letters and punctuation of such scripts, as many as stand together."""
