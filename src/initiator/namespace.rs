//! Finding the namespace to work on, and asking for its state again.

use super::{
    command::Identify,
    controller::Controller,
    error::{InitiatorError, Result},
    fields::le64,
    identify::{NamespaceInfo, active_namespaces, descriptor_uuid},
};

/// The namespace `wanted`, or the first active one.
pub(super) async fn find(controller: &Controller, wanted: Option<u32>) -> Result<NamespaceInfo> {
    // The list starts behind the given number.
    let behind = wanted.map_or(0, |nsid| nsid.saturating_sub(1));
    let page = controller.identify(Identify::ActiveNamespaces, behind).await?;
    let first = active_namespaces(&page).first().copied();
    match (wanted, first) {
        (Some(wanted), Some(first)) if wanted == first => describe(controller, wanted).await,
        (None, Some(first)) => describe(controller, first).await,
        (Some(wanted), _) => Err(unusable(controller, format!("it has no namespace {wanted}"))),
        (None, None) => Err(unusable(controller, "it has no namespace".into())),
    }
}

/// The active namespaces, ascending; at most as many as one answer has room for, 1024.
pub(super) async fn active(controller: &Controller) -> Result<Vec<u32>> {
    let page = controller.identify(Identify::ActiveNamespaces, 0).await?;
    Ok(active_namespaces(&page))
}

/// Asks for the namespace's state.
pub(super) async fn describe(controller: &Controller, nsid: u32) -> Result<NamespaceInfo> {
    let page = controller.identify(Identify::Namespace, nsid).await?;
    if le64(&*page, 0) == 0 {
        return Err(unusable(controller, format!("its namespace {nsid} is inactive or has no blocks")));
    }
    let uuid = match controller.identify(Identify::NamespaceDescriptors, nsid).await {
        Ok(page) => descriptor_uuid(&page),
        // The descriptors are younger (NVMe 1.3) than the rest; a target without has no UUID to tell.
        Err(InitiatorError::Status { .. }) => None,
        Err(error) => return Err(error),
    };
    NamespaceInfo::parse(nsid, &page, uuid).map_err(|violation| InitiatorError::protocol(&controller.peer, violation))
}

fn unusable(controller: &Controller, problem: String) -> InitiatorError {
    InitiatorError::Unsupported { peer: controller.peer.clone(), problem }
}
