export {
  type CredentialPaths,
  type Credentials,
  loadCredentials,
} from './credentials.js';
export { PKI_EXIT_STATUS, PkiError, type PkiErrorCode } from './errors.js';
export { fingerprintOf, parseFingerprint, pickByFingerprint } from './fingerprint.js';
export {
  defaultTrustDomain,
  type IdentityType,
  identityTypes,
  identityUri,
  type PeerIdentity,
  parsePeerIdentity,
} from './identity.js';
export { type CertificateSummary, showCertificate, type Verification, verifyCredentials } from './inspect.js';
export { type Delivery, finishInstall, installNext, requestForNextKey } from './install.js';
export {
  type CaFiles,
  caPaths,
  type InitPkiOptions,
  type IssuedFiles,
  type IssueOptions,
  initPki,
  issueCertificate,
} from './issue.js';
export { CertificateIssuer, ensureIssuer, type IssuedLeaf, type IssuerFiles, type IssuerOptions } from './issuer.js';
export { dialNode, listenForNodes, type NodeListener } from './node-link.js';
export { checkAnyServer, checkServer, identifyClient } from './peer.js';
export { type CheckedRequest, checkRequest, maxRequestBytes } from './request.js';
export {
  digestOf,
  mostRevocations,
  parseRevocations,
  type Revocations,
  type RevokedHolder,
  RevokedSet,
  revokedError,
  type ShownCertificate,
  type SignedRevocations,
  verifyRevocations,
} from './revocations.js';
export { type CredentialsSource, fixedCredentials, refusingBy, type WatchOptions, watchCredentials } from './watch.js';
