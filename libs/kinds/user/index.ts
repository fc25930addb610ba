export { user } from './user.kind.js';
