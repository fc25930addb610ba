export { copyIn, copyOut, withSession } from './copy.js';
export {
  type AskedStatement,
  allInOrder,
  committingWith,
  Database,
  type DatabaseOptions,
  type Tx,
  wakeAfterCommit,
} from './database.js';
export * from './errors.js';
export type * from './generated/schema.js';
export { type Channel, Listener } from './listener.js';
export * from './migrator.js';
export { type Databases, openDatabases, openOwner, whenReachable } from './open.js';
export { createPool, type Role } from './pools.js';
export { ensureRoles, makeRoles } from './roles.js';
