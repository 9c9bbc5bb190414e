//! DHCP for guests (RFC 2131), from reservations only.
