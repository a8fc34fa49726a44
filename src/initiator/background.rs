//! What a connected initiator does by itself: it keeps the association alive, and waits for asynchronous events.

use std::{sync::Arc, time::Duration};

use tokio::{sync::broadcast, task::JoinSet};

use super::{
    command::Command,
    controller::Controller,
    error::{InitiatorError, Result},
    fields::le32,
    inflight::Payload,
};

/// How many events a slow listener may lag behind before it loses the oldest.
const EVENT_BACKLOG: usize = 64;

/// Something the target told unasked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AsyncEvent {
    /// Namespaces appeared, vanished or changed (their size, for example).
    NamespacesChanged {
        /// Which; empty when there are too many to tell.
        nsids: Vec<u32>,
    },
    /// Anything else.
    Other {
        /// Type: 0 error, 1 health, 2 notice, 6 I/O, 7 vendor.
        kind: u8,
        /// Information within the type.
        information: u8,
        /// The log page to read for more.
        log_page: u8,
    },
}

/// Asynchronous Event Configuration: namespace attribute notices, also the bit of OAES that offers them.
const NAMESPACE_NOTICES: u32 = 1 << 8;
const LOG_CHANGED_NAMESPACES: u8 = 0x04;

/// The running tasks; they end when this is dropped.
#[derive(Debug)]
pub struct Background {
    /// Where events are published.
    pub events: broadcast::Sender<AsyncEvent>,
    _tasks: JoinSet<()>,
}

impl Background {
    /// Starts the tasks of a controller.
    pub fn start(controller: &Arc<Controller>, keep_alive_timeout: Option<Duration>) -> Self {
        let events = broadcast::Sender::new(EVENT_BACKLOG);
        let mut tasks = JoinSet::new();
        if let Some(timeout) = keep_alive_timeout {
            tasks.spawn(keep_alive(controller.clone(), timeout));
        }
        tasks.spawn(listen(controller.clone(), events.clone()));
        Self { events, _tasks: tasks }
    }
}

/// Tells the target twice per timeout that we are here.
async fn keep_alive(controller: Arc<Controller>, timeout: Duration) {
    let mut ticks = tokio::time::interval((timeout / 2).max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        if let Err(error) = controller.admin.submit(Command::keep_alive(), Payload::None).await {
            tracing::warn!(peer = %controller.peer, %error, "keep alive failed");
            return controller.fate.end(error);
        }
    }
}

/// Publishes events until the controller ends. Without events the controller works all the same.
async fn listen(controller: Arc<Controller>, events: broadcast::Sender<AsyncEvent>) {
    let Err(error) = try_listen(&controller, &events).await else {
        return;
    };
    if !matches!(error, InitiatorError::Disconnected { .. }) {
        tracing::warn!(peer = %controller.peer, %error, "no more asynchronous events");
    }
}

async fn try_listen(controller: &Controller, events: &broadcast::Sender<AsyncEvent>) -> Result<()> {
    const ASYNC_EVENT_CONFIGURATION: u8 = 0x0B;
    let admin = &controller.admin;
    if controller.identity.async_events & NAMESPACE_NOTICES != 0 {
        admin.submit(Command::set_features(ASYNC_EVENT_CONFIGURATION, NAMESPACE_NOTICES), Payload::None).await?;
    }
    loop {
        let answer = admin.submit_unlimited(Command::async_event_request()).await?;
        let event = match answer.result.to_le_bytes() {
            [kind, _, LOG_CHANGED_NAMESPACES, ..] if kind & 7 == 2 => {
                AsyncEvent::NamespacesChanged { nsids: changed_namespaces(controller).await? }
            }
            [kind, information, log_page, ..] => AsyncEvent::Other { kind: kind & 7, information, log_page },
        };
        tracing::info!(peer = %controller.peer, ?event, "asynchronous event");
        // Nobody may be listening.
        let _ = events.send(event);
    }
}

/// Reads the changed namespace list, which also re-arms its event.
async fn changed_namespaces(controller: &Controller) -> Result<Vec<u32>> {
    const LIST_BYTES: u32 = 4096;
    const TOO_MANY: u32 = u32::MAX;
    let command = Command::get_log_page(LOG_CHANGED_NAMESPACES, 0, LIST_BYTES);
    let answer = controller.admin.submit(command, Payload::In(LIST_BYTES as usize)).await?;
    Ok(answer.data.chunks_exact(4).map(|entry| le32(entry, 0)).take_while(|id| !matches!(*id, 0 | TOO_MANY)).collect())
}
