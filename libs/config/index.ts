export type { AgentConfig } from './agent-config.js';
export { ConfigError, type ConfigErrorCode, type ConfigProblem } from './config-error.js';
export {
  type ConnectionOptions,
  ConnectionStringError,
  type ConnectionTls,
  describeConnection,
  parseConnection,
} from './connection.js';
export { type KeycloakConfig, keycloakSecret } from './keycloak-config.js';
export { connectionOf, findConfig, type LoadedConfig, loadConfig, loadConfigOrExit } from './load-config.js';
export type { PkiConfig } from './pki-config.js';
export type {
  ApiConfig,
  GrpcConfig,
  ImagesConfig,
  LogLevel,
  RhyzomeConfig,
} from './rhyzome-config.js';
export { DEFAULT_AUDIENCE } from './rhyzome-config.js';
