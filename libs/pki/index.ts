export {
  type CredentialPaths,
  type Credentials,
  loadCredentials,
} from './credentials.js';
export { PKI_EXIT_STATUS, PkiError, type PkiErrorCode } from './errors.js';
export {
  defaultTrustDomain,
  type IdentityType,
  identityTypes,
  identityUri,
  type PeerIdentity,
  parsePeerIdentity,
} from './identity.js';
export { type CertificateSummary, showCertificate, type Verification, verifyCredentials } from './inspect.js';
export {
  type CaFiles,
  caPaths,
  type InitPkiOptions,
  type IssuedFiles,
  type IssueOptions,
  initPki,
  issueCertificate,
} from './issue.js';
export { dialNode, listenForNodes, type NodeListener } from './node-link.js';
export { checkServer, identifyClient } from './peer.js';
export { type CredentialsSource, fixedCredentials, type WatchOptions, watchCredentials } from './watch.js';
