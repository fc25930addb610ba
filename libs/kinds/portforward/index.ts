export { portforward } from './portforward.kind.js';
