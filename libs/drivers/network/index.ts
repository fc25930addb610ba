/** The only door of this library: networks on Linux. */
export { findLink } from './links.js';
export { bridgeName, checkRef, leasePortName, namespaceName } from './names.js';
export { createNetworkCapability, type NetworkOptions, type NetworkStatus } from './network.capability.js';
export { deniedByDefault, type Uplink } from './uplink.js';
