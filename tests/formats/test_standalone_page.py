"""Standalone pages: all text is escaped, and control characters are seen."""

from __future__ import annotations

from perception_encoder.formats.standalone_page import page_head, parse_template


def test_the_head_has_the_page_s_own_rules_after_the_shared_ones() -> None:
    head = page_head("<b>", "a & b", "p { color: red }\n")
    assert "<title>&lt;b&gt;</title>" in head and "<p>a &amp; b</p>" in head
    assert head.index("color-scheme") < head.index("p { color: red }") < head.index("</style>")
    assert "default-src 'none'" in head


def test_control_characters_are_seen() -> None:
    template = parse_template("{{ text }}|{{ number }}")
    assert template.render(text="a\x1b\udce9\n<", number=3) == "a\\x1b\\udce9\n&lt;|3"
    assert parse_template("{{ text }}|{{ number }}") is template
