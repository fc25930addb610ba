/** When each code comes and what to do about it: for the error catalogue. What a problem's own `detail` says is more exact. */
import type { ErrorCode } from './errors.js';

export const errorHelp: Record<ErrorCode, string> = {
  malformed_json: 'The body of the request cannot be parsed. Send JSON in UTF-8 with `Content-Type: application/json`.',
  not_an_object: 'The body is JSON, but a list, a string or null. Send an object.',
  malformed_request: 'Path, headers or length of the request break HTTP’s own rules. Mend the client.',
  unauthenticated:
    'No bearer token, or one that has expired, is not signed by a known issuer, or is not for this audience; `WWW-Authenticate` says which. Fetch a new token.',
  forbidden:
    'You may know of the resource, but not do this: `detail` names the permission that is missing; `GET /v1/permissions/explain` says why. Ask your tenant’s administrator.',
  not_found:
    'There is nothing of this id or name that you may see: it is gone, was never there, or is another’s. List what there is.',
  method_not_allowed: 'The path exists, with other methods; `Allow` names them.',
  not_acceptable:
    'The path answers with one media type, and `Accept` excludes it. Leave `Accept` out, or name that type.',
  request_timeout: 'The request did not arrive whole in time. Send it again.',
  name_taken:
    'Another resource of this kind has the name, or may get it back from a change under way. Take another, or delete that one.',
  already_exists: 'What you make is there already. Change that, or take another identity.',
  address_in_use:
    'Another interface or lease has the address. Take another, or leave it out to get the lowest free one.',
  mac_in_use: 'The network has a lease for this MAC address. Delete that one first.',
  port_in_use: 'Another forward has this port of the address. Take another port, or delete that forward.',
  limit_reached:
    'There may be no more of them here; `detail` says how many there may be. Delete what is no longer needed.',
  no_free_address: 'Every address of the network or pool is taken. Delete leases or instances, or use a larger subnet.',
  no_capacity:
    'No node has the room: `short` and `wouldFit` say what is missing and what would fit. Or no node with the room satisfies what `placement` requires: `requirements` says which. Ask for less, or try later: room comes back when others delete something.',
  quota_exceeded:
    'It would pass a limit of your tenant: `quota`, `max`, `used`, `asked` and `left` say which and by how much (`GET /v1/quotas` shows all). Delete something, or ask your administrator for more.',
  in_use:
    'Others depend on it: `blockers` names them. Delete or detach these first, or delete all at once with `cascade=true`.',
  protected: 'Its deletionProtection is on. PATCH it to false first, if you mean it.',
  busy: 'A job of this resource has not ended; `blockers` names it. Wait for it (`GET /v1/jobs/{id}?wait=60s`) or cancel it.',
  conflict: 'Something that the request relies on changed at the same moment. Read again and send it again.',
  not_cancellable: 'The job has ended, or is past what can be undone. Let it end; then change or delete the resource.',
  not_retryable: 'Only a failed job whose resource is still as it left it can be retried. Ask for the change anew.',
  not_ready: 'The resource is in a state in which this cannot be done; `detail` says which is needed.',
  wrong_offset:
    'A piece of an upload does not begin where the last one ended. Ask with HEAD how far it has come, and go on from there.',
  not_managed:
    'The identity provider of your tenant is somebody else’s: users, groups and keys are kept there, and grants name them by `sub` and by group.',
  no_issuer:
    'Over gRPC only: the rhyzome-grpc that was asked has no `pki.issuer` in its settings. Have it set up (docs/pki.md), or bring a certificate by hand.',
  last_admin:
    'A tenant whose people Rhyzome keeps has at least one enabled user with the role admin. Make another one first.',
  managed: 'It belongs to another resource, which `blockers` names, and goes with that. Change or delete that one.',
  idempotency_in_progress:
    'The first request with this key has not been answered yet. Send the same again after `Retry-After`.',
  cursor_too_old: 'The events after this cursor are no longer kept. List the resources again, then follow from now on.',
  precondition_failed: 'The resource is no longer as `If-Match` says. Read it again, and decide anew.',
  body_too_large: 'The body is over the limit, 1 MiB but for image content. Send less.',
  uri_too_long: 'Path and query are over 8000 characters. Send less, or use shorter names.',
  unsupported_media_type: 'The body’s `Content-Type` is not one that this path takes; `detail` names it.',
  invalid:
    'The request is well-formed, but a field, parameter or header is wrong. `errors[]` has all that is, each with where it is; mend them and send it again.',
  checksum_mismatch:
    'The bytes that came do not have the announced sha256. Check the file and its sum, and upload it again.',
  image_refused:
    'The content is not a qcow2 or raw image that may be used: `detail` says what is wrong with it. Convert it (`qemu-img convert -O qcow2`).',
  source_refused: 'The source’s address is one of Rhyzome’s own or of a private network. Use a public address.',
  source_unavailable:
    'The source cannot be reached or does not answer with the content. Check the URL, then create the image again.',
  upload_abandoned: 'Nobody has sent content in time. Create the image again, and upload.',
  idempotency_key_reused:
    'The key stands for another request of the last 24 hours. Take a new key for each thing that you want done.',
  upgrade_required: 'The path is a WebSocket. Connect with a WebSocket client.',
  too_many_requests:
    'You, your tenant or your address sends more than the limit allows; `policy` says whose, `RateLimit` what is left. Wait for `Retry-After` seconds.',
  headers_too_large: 'The headers are too large. Send fewer or shorter ones.',
  step_timed_out:
    'A step of the job did not get done by its deadline, and the job was undone; `detail` says which step, and what it waited for last. Retry the job once that is mended.',
  job_failed: 'The job could not be done; its error says why. Mend that and retry the job, or delete the resource.',
  internal: 'A fault of Rhyzome. Tell its operators the `requestId`: the logs have the cause under it.',
  database_unavailable:
    'The database is away for a moment. Send the same again after `Retry-After`; with an Idempotency-Key nothing is done twice.',
  identity_provider_unavailable:
    'The issuer of your token cannot be asked for its keys. Send the same again after `Retry-After`.',
  node_unreachable:
    'The machine that has it does not answer. It goes on by itself when it is back; operators see it in `rhyzome node list`.',
  content_store_unavailable:
    'The store of image content is full or away. Send the same again later, or tell the operators.',
  draining:
    'This server is being ended, as in an upgrade, and takes nothing more. Ask again: another one answers. An event stream goes on ' +
    'where it stopped, by its last id.',
  overloaded: 'Too much is under way at once. Send the same again after `Retry-After`.',
};
