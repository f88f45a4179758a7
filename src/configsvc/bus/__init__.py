"""Announcements that the change log has grown, and its events. `port` has the interfaces; the other modules implement them."""
