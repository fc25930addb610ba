export {
  type AccountSort,
  hasIdentity,
  type IdentityProvider,
  identity,
  type KeptAccount,
  type KeptPlace,
  type LoginPlace,
  type LoginPlaceMode,
  type LoginProgram,
  type LoginRole,
  type LoginUser,
  loginRoles,
  type PlaceAddress,
  provideIdentity,
} from './identity-provider.js';
export { KeycloakIdentity, type KeycloakSettings } from './keycloak-identity.js';
export { loginNameOf } from './keycloak-space.js';
export { Died, MemoryIdentity, type MemoryPlace, type MemoryUser } from './memory-identity.js';
export {
  hashPassword,
  isPasswordOf,
  newOneTimePassword,
  type PasswordHash,
  passwordMark,
} from './one-time-password.js';
