export type { Actor, Role } from './actor.js';
export { adminActor, roles } from './actor.js';
export { challengeOf, InvalidToken, type InvalidTokenReason, parseBearer } from './bearer.js';
export {
  type AuthorizationTarget,
  type Authorized,
  authorize,
  may,
  mayList,
} from './permission.js';
export { type RoleTableKind, type RoleTableRow, renderRoleTable, roleTable } from './role-table.js';
export { parseScopes, type Scope } from './scope.js';
export { actorForService, type ServiceRights } from './service-rights.js';
export { TokenVerifier, type TokenVerifierOptions } from './token-verifier.js';
