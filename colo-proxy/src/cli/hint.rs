//! What the operator can do about an error: a line of its own, below the error.

use std::error::Error;
use std::io::{self, ErrorKind};

use colo_proxy::colo_frame::ColoFrameError;
use colo_proxy::config::ConfigError;
use colo_proxy::endpoint::EndpointError;
use colo_proxy::filter::FilterError;
use colo_proxy::instance::InstanceError;
use colo_proxy::offline::{GuestError, NothingCompared};
use colo_proxy::qemu_args::QemuArgsError;
use colo_proxy::status::StatusError;
use nix::errno::Errno;

use super::diff::CannotCompare;

/// For a command that opens interfaces and loads programs.
const SERVE: &str = "run as root, or with CAP_NET_ADMIN, CAP_BPF and CAP_PERFMON";
/// For a command that needs no privilege of its own.
const SOCKET: &str = "name a path and a port that this user may open";
/// For a command that only opens a file or a socket of root's.
const READ: &str = "run as root";

/// For captures in which no station is certainly the guest.
const NAME_GUEST: &str = "name the guest with --guest and its Ethernet or IP address";

/// The hint for `error`, if there is one.
pub(crate) fn hint(error: &anyhow::Error) -> Option<&'static str> {
    if error.is::<CannotCompare>() {
        // Captures are the user's own files: a privilege does not help.
        return is_about_the_guest(error).then_some(NAME_GUEST);
    }
    own_hint(error).or_else(|| error.chain().any(is_denied).then(|| needed(error)))
}

/// The hint that the error itself has.
fn own_hint(error: &anyhow::Error) -> Option<&'static str> {
    let instance = || error.downcast_ref::<InstanceError>().and_then(InstanceError::hint);
    let filter = || error.downcast_ref::<FilterError>().and_then(FilterError::hint);
    let qemu_args = || error.downcast_ref::<QemuArgsError>().map(QemuArgsError::hint);
    instance().or_else(filter).or_else(qemu_args)
}

/// The comparison may have taken another station for the guest.
fn is_about_the_guest(error: &anyhow::Error) -> bool {
    match error.downcast_ref::<GuestError>() {
        Some(GuestError::Nothing { .. }) => false,
        Some(_) => true,
        None => matches!(error.downcast_ref(), Some(NothingCompared::NoOutput { .. })),
    }
}

fn needed(error: &anyhow::Error) -> &'static str {
    let is_of_frame =
        matches!(error.downcast_ref::<ColoFrameError>(), Some(ColoFrameError::Endpoint(_)));
    if is_of_frame || error.is::<EndpointError>() {
        return SOCKET;
    }
    let only_reads = error.is::<StatusError>() || error.is::<ConfigError>();
    if only_reads { READ } else { SERVE }
}

/// EACCES or EPERM, in any form in which a library returns it.
fn is_denied(error: &(dyn Error + 'static)) -> bool {
    if let Some(error) = error.downcast_ref::<io::Error>() {
        return error.kind() == ErrorKind::PermissionDenied;
    }
    if let Some(rtnetlink::Error::NetlinkError(message)) = error.downcast_ref() {
        return message.to_io().kind() == ErrorKind::PermissionDenied;
    }
    matches!(error.downcast_ref(), Some(Errno::EACCES | Errno::EPERM))
}

#[cfg(test)]
mod tests {
    use std::io;

    use colo_proxy::status::StatusError;

    use super::{ColoFrameError, EndpointError, READ, SERVE, SOCKET, hint};

    fn denied() -> io::Error {
        io::Error::from_raw_os_error(nix::libc::EACCES)
    }

    #[test]
    fn a_refusal_by_the_system_has_a_hint_anywhere_in_the_chain() {
        let error = anyhow::Error::from(denied()).context("cannot serve tap0");
        assert_eq!(hint(&error), Some(SERVE));
        let error = StatusError::List { path: "/run/colo-proxy".into(), source: denied() };
        assert_eq!(hint(&error.into()), Some(READ));
    }

    #[test]
    fn a_socket_that_may_not_be_opened_needs_no_root() {
        let endpoint = "unix:/run/a.sock,server".into();
        let error = EndpointError::Listen { endpoint, source: denied() };
        let error = ColoFrameError::from(error);
        assert_eq!(hint(&anyhow::Error::from(error).context("cannot compare")), Some(SOCKET));
    }

    #[test]
    fn another_error_has_none() {
        let missing = io::Error::from_raw_os_error(nix::libc::ENOENT);
        assert_eq!(hint(&anyhow::Error::from(missing).context("cannot serve tap0")), None);
    }
}
