//! Quick acknowledgments on the way to the secondary's QEMU.
//!
//! At the end of each checkpoint the secondary's QEMU writes two small messages one after the other.
//! Its kernel keeps the second until the first is acknowledged (Nagle, RFC 9293 section 3.7.4), and
//! this kernel keeps that acknowledgment for 40 ms, hoping to send it with data. For so long the
//! primary's guest is stopped. A route of its own to that host, with `quickack`, ends the waiting; it
//! is as the one that led there before but for that, marked as ours, and taken away at the end.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use futures_util::TryStreamExt;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::{Handle, new_connection};
use serde_json::{Value, json};

use crate::error_chain::chain;

/// Marks a route as ours: a number that `/etc/iproute2/rt_protos` gives to nobody.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(206);

#[derive(Debug, thiserror::Error)]
enum QuickAckError {
    #[error("no address of the host {host}")]
    Resolve { host: String, source: std::io::Error },
    #[error("cannot open a netlink socket")]
    Socket(#[source] std::io::Error),
    #[error("no route to {to}")]
    NoRoute { to: IpAddr },
    #[error("cannot {what} the route to {to}")]
    Route { what: &'static str, to: IpAddr, source: rtnetlink::Error },
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum State {
    /// Not wanted, by configuration.
    #[default]
    Off,
    /// Nothing to do: no migration yet, or one that needs it not.
    Idle(&'static str),
    Pending,
    /// There is a route of ours.
    On(IpAddr),
    Failed(String),
}

/// The route, while this lives.
#[derive(Debug)]
pub(crate) struct QuickAck {
    state: Arc<Mutex<State>>,
    making: Option<thread::JoinHandle<()>>,
}

impl QuickAck {
    pub(crate) fn new(wanted: bool) -> Self {
        let state = if wanted { State::Idle("no migration yet") } else { State::Off };
        Self { state: Arc::new(Mutex::new(state)), making: None }
    }

    /// Makes the route to `host`, which a migration is about to use; `None` where that is no host.
    /// Does not wait for it: the first checkpoint is far away.
    pub(crate) fn start(&mut self, host: Option<String>) {
        if self.now() == State::Off {
            return;
        }
        self.end();
        let Some(host) = host else {
            self.set(State::Idle("the migration uses no TCP"));
            return;
        };
        self.set(State::Pending);
        let state = Arc::clone(&self.state);
        let made = thread::Builder::new().name("quick-ack".into()).spawn(move || {
            let done = made(&host);
            *state.lock().unwrap_or_else(PoisonError::into_inner) = done;
        });
        match made {
            Ok(thread) => self.making = Some(thread),
            Err(error) => self.set(State::Failed(error.to_string())),
        }
    }

    /// What `status` shows.
    pub(crate) fn report(&self) -> Value {
        match self.now() {
            State::Off => json!({"state": "off"}),
            State::Idle(why) => json!({"state": "idle", "why": why}),
            State::Pending => json!({"state": "pending"}),
            State::On(to) => json!({"state": "on", "route": to.to_string()}),
            State::Failed(why) => json!({"state": "failed", "why": why}),
        }
    }

    fn now(&self) -> State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, state: State) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    fn end(&mut self) {
        if let Some(making) = self.making.take() {
            // It says in the state how it ended.
            let _ = making.join();
        }
        if let State::On(to) = self.now() {
            let ended = thread::spawn(move || in_runtime(remove(to))).join();
            if let Ok(Err(error)) = ended {
                log::warn!("quick acknowledgments: {}", chain(&error));
            }
        }
    }
}

impl Drop for QuickAck {
    fn drop(&mut self) {
        self.end();
    }
}

fn made(host: &str) -> State {
    match in_runtime(make(host.to_owned())) {
        Ok(Some(to)) => {
            log::info!("quick acknowledgments on the way to {to}, by a route of its own");
            State::On(to)
        }
        Ok(None) => State::Idle("the migration stays on this host"),
        Err(error) => {
            let why = chain(&error);
            log::warn!(
                "no quick acknowledgments: {why}; each checkpoint stops the guest for 40 ms more"
            );
            State::Failed(why)
        }
    }
}

/// Netlink speaks tokio only, and this thread is not one of its own.
fn in_runtime<T>(work: impl Future<Output = Result<T, QuickAckError>>) -> Result<T, QuickAckError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(QuickAckError::Socket)?.block_on(work)
}

fn connect() -> Result<Handle, QuickAckError> {
    let (connection, handle, _) = new_connection().map_err(QuickAckError::Socket)?;
    tokio::spawn(connection);
    Ok(handle)
}

async fn make(host: String) -> Result<Option<IpAddr>, QuickAckError> {
    let found = tokio::net::lookup_host((host.as_str(), 0))
        .await
        .and_then(|mut all| all.next().ok_or_else(|| std::io::ErrorKind::NotFound.into()));
    let to = found.map_err(|source| QuickAckError::Resolve { host, source })?.ip();
    let handle = connect()?;
    let mut routes = handle.route().get(message(to)).execute();
    let route = routes.try_next().await.map_err(|source| QuickAckError::Route {
        what: "look up",
        to,
        source,
    })?;
    let route = route.ok_or(QuickAckError::NoRoute { to })?;
    if route.header.kind != RouteType::Unicast {
        return Ok(None);
    }
    let ours = like(&route, to);
    let done = handle.route().add(ours).replace().execute().await;
    done.map_err(|source| QuickAckError::Route { what: "add", to, source })?;
    Ok(Some(to))
}

async fn remove(to: IpAddr) -> Result<(), QuickAckError> {
    let mut ours = message(to);
    ours.header.protocol = PROTOCOL;
    // Whatever leads there, as long as it is ours.
    ours.header.scope = RouteScope::NoWhere;
    ours.header.table = RouteHeader::RT_TABLE_MAIN;
    let done = connect()?.route().del(ours).execute().await;
    done.map_err(|source| QuickAckError::Route { what: "remove", to, source })
}

/// A message about the route to one address.
fn message(to: IpAddr) -> RouteMessage {
    let mut message = RouteMessage::default();
    let (family, len) =
        if to.is_ipv4() { (AddressFamily::Inet, 32) } else { (AddressFamily::Inet6, 128) };
    (message.header.address_family, message.header.destination_prefix_length) = (family, len);
    message.attributes.push(RouteAttribute::Destination(to.into()));
    message
}

/// Where `route` leads, for `to` alone, and with quick acknowledgments.
fn like(route: &RouteMessage, to: IpAddr) -> RouteMessage {
    let mut ours = message(to);
    ours.header.table = RouteHeader::RT_TABLE_MAIN;
    ours.header.protocol = PROTOCOL;
    ours.header.kind = RouteType::Unicast;
    let mut is_direct = true;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(_) | RouteAttribute::PrefSource(_) => {}
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => is_direct = false,
            _ => continue,
        }
        ours.attributes.push(attribute.clone());
    }
    if is_direct {
        ours.header.scope = RouteScope::Link;
    }
    ours.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::QuickAck(1)]));
    ours
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_route_leads_where_the_other_did() {
        let to: IpAddr = "10.78.0.2".parse().unwrap();
        let gateway = RouteAttribute::Gateway("10.0.0.1".parse::<IpAddr>().unwrap().into());
        let mut found = message(to);
        found.attributes.extend([RouteAttribute::Oif(7), RouteAttribute::Uid(0)]);
        let ours = like(&found, to);
        assert_eq!(
            (ours.header.scope, ours.header.destination_prefix_length),
            (RouteScope::Link, 32)
        );
        assert!(ours.attributes.contains(&RouteAttribute::Oif(7)));
        assert!(!ours.attributes.contains(&RouteAttribute::Uid(0)));
        assert!(ours.attributes.contains(&RouteAttribute::Metrics(vec![RouteMetric::QuickAck(1)])));
        found.attributes.push(gateway.clone());
        let ours = like(&found, to);
        assert_eq!(ours.header.scope, RouteScope::Universe);
        assert!(ours.attributes.contains(&gateway));
    }

    #[test]
    fn one_that_is_not_wanted_does_nothing() {
        let mut off = QuickAck::new(false);
        off.start(Some("10.78.0.2".into()));
        assert_eq!(off.report()["state"], "off");
        let mut unix = QuickAck::new(true);
        unix.start(None);
        assert_eq!(unix.report()["why"], "the migration uses no TCP");
    }
}
