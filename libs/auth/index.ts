export { everything, isEmpty, type Reach, type Reachable, reaches, reachOf, roleAllows, ruleNames } from './access.js';
export { AccessDirectory, accessNow } from './access-directory.js';
export { type AccessRule, type Actor, adminActor, type Role, roles } from './actor.js';
export { hashOfApiToken, isApiToken, type NewApiToken, newApiToken } from './api-token-format.js';
export { ApiTokens, type ApiTokensOptions } from './api-tokens.js';
export { API_TOKEN_PREFIX, Authenticator, type BearerVerifier } from './authenticator.js';
export { actorNow, type Holding, refuseGivingMore } from './authority.js';
export { challengeOf, claimedIssuer, InvalidToken, type InvalidTokenReason, parseBearer } from './bearer.js';
export {
  cutTo,
  type Given,
  type GrantableKind,
  MAX_PARTS,
  type Shortfall,
  shortfalls,
  TooManyParts,
  type Where,
} from './coverage.js';
export { type ExplainedKind, explain, explainKind, type Permission, permissionsOf, type Reason } from './explain.js';
export { type IssuerKeys, type KeyMemory, StoredKeys, type StoredKeysOptions } from './key-memory.js';
export {
  type DeviceLogin,
  endLogin,
  issuersOf,
  type LoginClient,
  LoginError,
  type LoginErrorCode,
  type LoginTokens,
  refreshLogin,
  startDeviceLogin,
} from './login.js';
export {
  type AuthorizationTarget,
  type Authorized,
  authorize,
  forbidden,
  isAllowed,
  may,
  mayAll,
  mayList,
} from './permission.js';
export { type RoleTableKind, type RoleTableRow, renderRoleTable, roleTable } from './role-table.js';
export { parseScopes, type Scope, scopeWithin } from './scope.js';
export { selectorText } from './selector-sets.js';
export { actorForService, type ServiceRights } from './service-rights.js';
export {
  accountSubject,
  dropApiTokens,
  enableSubjects,
  forgetSubjects,
  leaveSubjects,
  putSubject,
  type SubjectOwner,
} from './subjects.js';
export { TokenVerifier, type TokenVerifierOptions } from './token-verifier.js';
