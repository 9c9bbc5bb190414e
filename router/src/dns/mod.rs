//! DNS for guests: local names, and a forwarder for everything else.
