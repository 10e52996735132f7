//! Quick acknowledgments on the way to the secondary's QEMU.
//!
//! At the end of each checkpoint the secondary's QEMU writes two small messages one after the other.
//! Its kernel delays the second until the first is acknowledged (Nagle, RFC 9293 section 3.7.4), and
//! this kernel delays that acknowledgment for 40 ms, hoping to send it with data. The primary's guest is
//! stopped for so long. A route to that host with `quickack` ends the delay. Otherwise it equals the
//! route that led there before. Its protocol number says that it is ours, and it is removed at the end.
//! A host route of somebody else is left alone.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use futures_util::TryStreamExt;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope,
    RouteType,
};
use rtnetlink::{Handle, new_connection};

use crate::error_chain::chain;
use crate::status::QuickAckReport;

/// Says that a route is ours: a number that `/etc/iproute2/rt_protos` gives to nobody.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(206);
const TABLE_MAIN: u32 = RouteHeader::RT_TABLE_MAIN as u32;
const NO_TCP: &str = "the migration uses no TCP";

/// Locked while a route is made or removed, so that the end of one instance does not remove a route that
/// another one has just found.
static USERS: Mutex<Users> = Mutex::new(Users(BTreeMap::new()));

#[derive(Debug, thiserror::Error)]
enum QuickAckError {
    #[error("the host {host} has no address")]
    Resolve { host: String, source: io::Error },
    #[error("cannot open a netlink socket")]
    Socket(#[source] io::Error),
    #[error("no route to {to}")]
    NoRoute { to: IpAddr },
    #[error("cannot {what} the route to {to}")]
    Route { what: &'static str, to: IpAddr, source: rtnetlink::Error },
    #[error(
        "there is a host route to {to} already, and it is left alone; add `quickack 1` to it by hand"
    )]
    Foreign { to: IpAddr },
}

/// A route of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Route {
    to: IpAddr,
    /// The table that leads there: the kernel would not look into another one.
    table: u32,
}

/// The instances of this process that use a route: pairs may share both hosts.
#[derive(Debug)]
struct Users(BTreeMap<Route, usize>);

impl Users {
    fn add(&mut self, route: Route) {
        *self.0.entry(route).or_default() += 1;
    }

    /// Whether that was the last one.
    fn remove(&mut self, route: Route) -> bool {
        let Some(users) = self.0.get_mut(&route) else { return false };
        *users -= 1;
        let is_last = *users == 0;
        if is_last {
            self.0.remove(&route);
        }
        is_last
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum QuickAckState {
    /// Not wanted, by configuration.
    #[default]
    Off,
    /// Nothing to do: no migration yet, or one without a need for it.
    Idle(&'static str),
    Pending,
    /// There is a route of ours.
    On(Route),
    Failed(String),
}

/// The route, while this lives.
#[derive(Debug)]
pub struct QuickAck {
    state: Arc<Mutex<QuickAckState>>,
    /// The host for which the route was made last.
    host: Option<String>,
    making: Option<thread::JoinHandle<()>>,
}

impl QuickAck {
    pub fn new(wanted: bool) -> Self {
        let state =
            if wanted { QuickAckState::Idle("no migration yet") } else { QuickAckState::Off };
        Self { state: Arc::new(Mutex::new(state)), host: None, making: None }
    }

    /// Makes the route to `host`, which a migration is about to use; `None` if it uses no host. Waits for
    /// nothing: the first checkpoint is far away, and a name server may be slow.
    pub fn start(&mut self, host: Option<String>) {
        let old = match self.now() {
            QuickAckState::Off | QuickAckState::Pending => return,
            QuickAckState::On(_) if host == self.host => return,
            QuickAckState::On(old) => Some(old),
            QuickAckState::Idle(_) | QuickAckState::Failed(_) => None,
        };
        self.host.clone_from(&host);
        if host.is_none() && old.is_none() {
            self.set(QuickAckState::Idle(NO_TCP));
            return;
        }
        self.set(QuickAckState::Pending);
        let state = Arc::clone(&self.state);
        let work = move || {
            if let Some(old) = old {
                give_up(old);
            }
            let done = host.map_or(QuickAckState::Idle(NO_TCP), made);
            *state.lock().unwrap_or_else(PoisonError::into_inner) = done;
        };
        // The thread before this one has set its state, so there is nothing to wait for.
        match thread::Builder::new().name("quick-ack".into()).spawn(work) {
            Ok(thread) => self.making = Some(thread),
            Err(error) => {
                self.host = None;
                self.set(
                    old.map_or_else(|| QuickAckState::Failed(chain(&error)), QuickAckState::On),
                );
            }
        }
    }

    /// What `status` shows.
    pub fn report(&self) -> QuickAckReport {
        match self.now() {
            QuickAckState::Off => QuickAckReport::Off,
            QuickAckState::Idle(why) => QuickAckReport::Idle { why: why.to_owned() },
            QuickAckState::Pending => QuickAckReport::Pending,
            QuickAckState::On(Route { to, table }) => {
                QuickAckReport::On { route: to, table: (table != TABLE_MAIN).then_some(table) }
            }
            QuickAckState::Failed(why) => QuickAckReport::Failed { why },
        }
    }

    fn now(&self) -> QuickAckState {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, state: QuickAckState) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }
}

impl Drop for QuickAck {
    fn drop(&mut self) {
        if let Some(making) = self.making.take() {
            // Its result is in the state.
            let _ = making.join();
        }
        if let QuickAckState::On(route) = self.now() {
            // Not on this thread, which may be one of tokio's.
            let _ = thread::spawn(move || give_up(route)).join();
        }
    }
}

fn made(host: String) -> QuickAckState {
    let made = in_runtime(resolve(host)).and_then(make_or_adopt);
    match made {
        Ok(Made::Route(route)) => {
            log::info!("quick acknowledgments to {}: a route of our own is in place", route.to);
            QuickAckState::On(route)
        }
        Ok(Made::Needless(why)) => QuickAckState::Idle(why),
        Err(error) => {
            let why = chain(&error);
            log::warn!(
                "no quick acknowledgments: {why}. Each checkpoint stops the guest for 40 ms more"
            );
            QuickAckState::Failed(why)
        }
    }
}

fn make_or_adopt(to: IpAddr) -> Result<Made, QuickAckError> {
    let mut users = USERS.lock().unwrap_or_else(PoisonError::into_inner);
    let made = in_runtime(make(to))?;
    if let Made::Route(route) = made {
        users.add(route);
    }
    Ok(made)
}

/// Removes the route with its last user.
fn give_up(route: Route) {
    let mut users = USERS.lock().unwrap_or_else(PoisonError::into_inner);
    if users.remove(route)
        && let Err(error) = in_runtime(remove(route))
    {
        log::warn!("the route for quick acknowledgments stays: {}", chain(&error));
    }
}

/// The netlink library needs tokio, and this thread is not one of tokio's.
fn in_runtime<T>(work: impl Future<Output = Result<T, QuickAckError>>) -> Result<T, QuickAckError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(QuickAckError::Socket)?.block_on(work)
}

fn connect() -> Result<Handle, QuickAckError> {
    let (connection, handle, _) = new_connection().map_err(QuickAckError::Socket)?;
    tokio::spawn(connection);
    Ok(handle)
}

async fn resolve(host: String) -> Result<IpAddr, QuickAckError> {
    let found = tokio::net::lookup_host((host.as_str(), 0))
        .await
        .and_then(|mut all| all.next().ok_or_else(|| io::ErrorKind::NotFound.into()));
    found.map(|found| found.ip()).map_err(|source| QuickAckError::Resolve { host, source })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Made {
    Route(Route),
    Needless(&'static str),
}

async fn make(to: IpAddr) -> Result<Made, QuickAckError> {
    let handle = connect()?;
    // The configured route, with its owner and without values that the kernel has learned meanwhile.
    let configured = look_up(&handle, to, RouteFlags::FibMatch).await?;
    if configured.header.kind != RouteType::Unicast {
        return Ok(Made::Needless("the migration stays on this host"));
    }
    if is_ours(&configured, to) {
        // Another instance's, or left by one that was killed.
        return Ok(Made::Route(Route { to, table: table_of(&configured) }));
    }
    if metrics_of(&configured).any(|metric| matches!(metric, RouteMetric::QuickAck(1..))) {
        return Ok(Made::Needless("the route there has quickack already"));
    }
    // The route in use: one next hop, even if several are configured.
    let used = look_up(&handle, to, RouteFlags::empty()).await?;
    let ours = like(&used, &configured, to);
    let route = Route { to, table: table_of(&ours) };
    match handle.route().add(ours).execute().await {
        Ok(()) => Ok(Made::Route(route)),
        Err(error) if is_there_already(&error) => {
            let other = look_up(&handle, to, RouteFlags::FibMatch).await?;
            if !is_ours(&other, to) {
                return Err(QuickAckError::Foreign { to });
            }
            Ok(Made::Route(Route { to, table: table_of(&other) }))
        }
        Err(source) => Err(QuickAckError::Route { what: "add", to, source }),
    }
}

async fn look_up(
    handle: &Handle,
    to: IpAddr,
    flags: RouteFlags,
) -> Result<RouteMessage, QuickAckError> {
    let mut question = message(to);
    question.header.flags = flags | RouteFlags::LookupTable;
    let mut routes = handle.route().get(question).execute();
    let route = routes.try_next().await;
    let route = route.map_err(|source| QuickAckError::Route { what: "look up", to, source })?;
    route.ok_or(QuickAckError::NoRoute { to })
}

async fn remove(route: Route) -> Result<(), QuickAckError> {
    let mut ours = message(route.to);
    ours.header.protocol = PROTOCOL;
    // Any route to that host, as long as it is ours.
    ours.header.scope = RouteScope::NoWhere;
    set_table(&mut ours, route.table);
    let done = connect()?.route().del(ours).execute().await;
    done.map_err(|source| QuickAckError::Route { what: "remove", to: route.to, source })
}

fn is_there_already(error: &rtnetlink::Error) -> bool {
    let rtnetlink::Error::NetlinkError(error) = error else { return false };
    error.to_io().kind() == io::ErrorKind::AlreadyExists
}

/// A message about the route to one address.
fn message(to: IpAddr) -> RouteMessage {
    let mut message = RouteMessage::default();
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.address_family = family;
    message.header.destination_prefix_length = host_prefix(to);
    message.attributes.push(RouteAttribute::Destination(to.into()));
    message
}

fn host_prefix(to: IpAddr) -> u8 {
    if to.is_ipv4() { 32 } else { 128 }
}

/// Asks the configured route: for the one in use the kernel does not say who made it.
fn is_ours(route: &RouteMessage, to: IpAddr) -> bool {
    route.header.protocol == PROTOCOL && route.header.destination_prefix_length == host_prefix(to)
}

fn table_of(route: &RouteMessage) -> u32 {
    let table = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    match table.unwrap_or(route.header.table.into()) {
        0 => TABLE_MAIN,
        table => table,
    }
}

/// The header has room for a small number only.
fn set_table(route: &mut RouteMessage, table: u32) {
    route.header.table = u8::try_from(table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
    route.attributes.push(RouteAttribute::Table(table));
}

fn metrics_of(route: &RouteMessage) -> impl Iterator<Item = &RouteMetric> {
    let metrics = route.attributes.iter().filter_map(|attribute| match attribute {
        RouteAttribute::Metrics(metrics) => Some(metrics),
        _ => None,
    });
    metrics.flatten()
}

/// A route for `to` alone: it leads where `used` leads, has the metrics of `configured`, and quick
/// acknowledgments.
fn like(used: &RouteMessage, configured: &RouteMessage, to: IpAddr) -> RouteMessage {
    let mut ours = message(to);
    set_table(&mut ours, table_of(used));
    ours.header.protocol = PROTOCOL;
    ours.header.kind = RouteType::Unicast;
    let mut is_direct = true;
    for attribute in &used.attributes {
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
    let others =
        metrics_of(configured).filter(|metric| !matches!(metric, RouteMetric::QuickAck(_)));
    let metrics = others.cloned().chain([RouteMetric::QuickAck(1)]).collect();
    ours.attributes.push(RouteAttribute::Metrics(metrics));
    ours
}

#[cfg(test)]
mod tests;
