/** The only door of this library: networks on Linux. */
export { deniedByDefault } from './agent-rules.js';
export { findLink } from './links.js';
export { bridgeName, checkRef, leasePortName, namespaceName } from './names.js';
export { createNetworkCapability } from './network.capability.js';
export { machineUnderlay, type Underlay } from './overlay.js';
export type { LocalNetworkStatus, NetworkOptions } from './parts.js';
export type { Uplink } from './uplink.js';
