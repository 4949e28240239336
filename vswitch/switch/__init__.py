"""VSwitch, with a facet for each area: attachments, configuration, policies, stations, captures."""

from vswitch.switch.attachments import Attachment
from vswitch.switch.switch import VSwitch

__all__ = ["Attachment", "VSwitch"]
