import './user.moving.js';

export { user } from './user.kind.js';
