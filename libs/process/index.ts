export * from './credentials.js';
export * from './log.js';
export * from './monitoring.js';
export * from './shutdown.js';
export { version } from './version.js';
