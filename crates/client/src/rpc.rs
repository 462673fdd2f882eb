//! The calls of `kv.v1` and `auth.v1` as requests that know their method, and the one place that sends a request.

use std::future::Future;
use std::time::Duration;

use kvorum_proto::auth::v1 as auth;
use kvorum_proto::auth::v1::auth_client::AuthClient;
use kvorum_proto::kv::v1 as wire;
use kvorum_proto::kv::v1::cluster_client::ClusterClient;
use kvorum_proto::kv::v1::kv_client::KvClient;
use tokio::time::{Instant, timeout_at};
use tonic::{Request, Response, Status, Streaming};

use crate::channel::{Channel, MESSAGE_BYTES_MAX};
use crate::judge::{Setback, judge};
use crate::node::Node;

/// A node is told to be done so long before the time is over, or a tenth of it if that is less, so that
/// its reason arrives: "there is no leader" may be repeated, silence may not.
const ANSWER_TIME: Duration = Duration::from_millis(100);

/// A request, with the method that takes it.
pub(crate) trait Rpc: Clone + Send + Sync + 'static {
    type Answer: Send;
    /// The server is told the deadline. A stream outlives the call that opens it.
    const TIMED: bool = true;

    fn send(
        channel: Channel,
        request: Request<Self>,
    ) -> impl Future<Output = Result<Response<Self::Answer>, Status>> + Send;

    fn header(answer: &Self::Answer) -> Option<&wire::Header>;
}

macro_rules! unary {
    ($client:ident: $($method:ident($request:ident) -> $answer:ident),+ $(,)?) => {$(
        impl Rpc for wire::$request {
            type Answer = wire::$answer;

            async fn send(
                channel: Channel,
                request: Request<Self>,
            ) -> Result<Response<Self::Answer>, Status> {
                $client::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX).$method(request).await
            }

            fn header(answer: &Self::Answer) -> Option<&wire::Header> {
                answer.header.as_ref()
            }
        }
    )+};
}

/// Answers of these say neither who answered nor at which revision.
macro_rules! without_header {
    ($($method:ident($request:ident) -> $answer:ident),+ $(,)?) => {$(
        impl Rpc for auth::$request {
            type Answer = auth::$answer;

            async fn send(
                channel: Channel,
                request: Request<Self>,
            ) -> Result<Response<Self::Answer>, Status> {
                AuthClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX).$method(request).await
            }

            fn header(_: &Self::Answer) -> Option<&wire::Header> {
                None
            }
        }
    )+};
}

macro_rules! streaming {
    ($($method:ident($request:ident) -> $answer:ident),+ $(,)?) => {$(
        impl Rpc for wire::$request {
            type Answer = Streaming<wire::$answer>;
            const TIMED: bool = false;

            async fn send(
                channel: Channel,
                request: Request<Self>,
            ) -> Result<Response<Self::Answer>, Status> {
                KvClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX).$method(request).await
            }

            fn header(_: &Self::Answer) -> Option<&wire::Header> {
                None
            }
        }
    )+};
}

unary!(KvClient:
    get(GetRequest) -> GetResponse,
    set(SetRequest) -> SetResponse,
    delete(DeleteRequest) -> DeleteResponse,
    ttl(TtlRequest) -> TtlResponse,
    expire(ExpireRequest) -> ExpireResponse,
    persist(PersistRequest) -> PersistResponse,
    compact(CompactRequest) -> CompactResponse,
    batch(BatchRequest) -> BatchResponse,
);
unary!(ClusterClient: members(MembersRequest) -> MembersResponse);
without_header!(
    auth_enable(AuthEnableRequest) -> AuthEnableResponse,
    auth_observe(AuthObserveRequest) -> AuthObserveResponse,
    auth_disable(AuthDisableRequest) -> AuthDisableResponse,
    auth_status(AuthStatusRequest) -> AuthStatusResponse,
    user_add(UserAddRequest) -> UserAddResponse,
    user_delete(UserDeleteRequest) -> UserDeleteResponse,
    user_get(UserGetRequest) -> UserGetResponse,
    user_list(UserListRequest) -> UserListResponse,
    user_change_password(UserChangePasswordRequest) -> UserChangePasswordResponse,
    user_grant_role(UserGrantRoleRequest) -> UserGrantRoleResponse,
    user_revoke_role(UserRevokeRoleRequest) -> UserRevokeRoleResponse,
    role_add(RoleAddRequest) -> RoleAddResponse,
    role_delete(RoleDeleteRequest) -> RoleDeleteResponse,
    role_get(RoleGetRequest) -> RoleGetResponse,
    role_list(RoleListRequest) -> RoleListResponse,
    role_grant_permission(RoleGrantPermissionRequest) -> RoleGrantPermissionResponse,
    role_revoke_permission(RoleRevokePermissionRequest) -> RoleRevokePermissionResponse,
);
streaming!(scan(ScanRequest) -> ScanResponse, watch(WatchRequest) -> WatchResponse);

/// Sends a request on a channel.
pub(crate) async fn send<R: Rpc>(
    channel: &Channel,
    request: &R,
    until: Instant,
    now: Instant,
    node: &Node,
) -> Result<R::Answer, Setback> {
    let mut message = Request::new(request.clone());
    if R::TIMED {
        let left = until.saturating_duration_since(now);
        message.set_timeout(left - (left / 10).min(ANSWER_TIME));
    }
    match timeout_at(until, R::send(channel.clone(), message)).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(judge(&status, node.address().as_str())),
        Err(_) => Err(Setback::timed_out()),
    }
}
