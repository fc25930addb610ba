export { evacuate, losesAnything, lossWords, planEvacuation, type Rescue } from './evacuation.js';
export { instance } from './instance.kind.js';
