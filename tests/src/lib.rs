//! The lab: namespaces, TAPs and stand-in guests.
