export { IssuerCache, type IssuerDirectory, type IssuerEntry, type IssuerRow, type TenantState } from './issuers.js';
