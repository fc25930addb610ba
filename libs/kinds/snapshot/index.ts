export { snapshot } from './snapshot.kind.js';
