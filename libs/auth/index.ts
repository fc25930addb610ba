export {
  everything,
  isEmpty,
  type Reach,
  type Reachable,
  reaches,
  reachOf,
  roleAllows,
  ruleNames,
} from './access.js';
export { AccessDirectory } from './access-directory.js';
export type { AccessRule, Actor, Role } from './actor.js';
export { adminActor, roles } from './actor.js';
export { API_TOKEN_PREFIX, Authenticator, type BearerVerifier } from './authenticator.js';
export { challengeOf, InvalidToken, type InvalidTokenReason, parseBearer } from './bearer.js';
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
export { parseScopes, type Scope } from './scope.js';
export { actorForService, type ServiceRights } from './service-rights.js';
export { TokenVerifier, type TokenVerifierOptions } from './token-verifier.js';
