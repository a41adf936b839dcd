// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hcn

// ErrorCode is an HRESULT of the service, or the Win32 code in one.
type ErrorCode uint32

// Codes that the Go package for Windows exports (hcsshim hcn/hcnerrors.go).
const (
	ERROR_NOT_FOUND           = ErrorCode(0x490)
	HCN_E_PORT_ALREADY_EXISTS = ErrorCode(0x803b0013)
	HCN_E_NOTIMPL             = ErrorCode(0x80004001)
	HCN_E_NETWORK_NOT_FOUND   = ErrorCode(0x803b0001)
	HCN_E_ENDPOINT_NOT_FOUND  = ErrorCode(0x803b0002)
	HCN_E_PORT_NOT_FOUND      = ErrorCode(0x803b0007)
	HCN_E_INVALID_IP          = ErrorCode(0x803b001e)
	HCN_E_ADAPTER_NOT_FOUND   = ErrorCode(0x803b0006)
)

// The other codes of the service (Windows SDK, winerror.h, facility HNS).
const (
	HCN_E_LAYER_NOT_FOUND                     = ErrorCode(0x803b0003)
	HCN_E_SWITCH_NOT_FOUND                    = ErrorCode(0x803b0004)
	HCN_E_SUBNET_NOT_FOUND                    = ErrorCode(0x803b0005)
	HCN_E_POLICY_NOT_FOUND                    = ErrorCode(0x803b0008)
	HCN_E_VFP_PORTSETTING_NOT_FOUND           = ErrorCode(0x803b0009)
	HCN_E_INVALID_NETWORK                     = ErrorCode(0x803b000a)
	HCN_E_INVALID_NETWORK_TYPE                = ErrorCode(0x803b000b)
	HCN_E_INVALID_ENDPOINT                    = ErrorCode(0x803b000c)
	HCN_E_INVALID_POLICY                      = ErrorCode(0x803b000d)
	HCN_E_INVALID_POLICY_TYPE                 = ErrorCode(0x803b000e)
	HCN_E_INVALID_REMOTE_ENDPOINT_OPERATION   = ErrorCode(0x803b000f)
	HCN_E_NETWORK_ALREADY_EXISTS              = ErrorCode(0x803b0010)
	HCN_E_LAYER_ALREADY_EXISTS                = ErrorCode(0x803b0011)
	HCN_E_POLICY_ALREADY_EXISTS               = ErrorCode(0x803b0012)
	HCN_E_ENDPOINT_ALREADY_ATTACHED           = ErrorCode(0x803b0014)
	HCN_E_REQUEST_UNSUPPORTED                 = ErrorCode(0x803b0015)
	HCN_E_MAPPING_NOT_SUPPORTED               = ErrorCode(0x803b0016)
	HCN_E_DEGRADED_OPERATION                  = ErrorCode(0x803b0017)
	HCN_E_SHARED_SWITCH_MODIFICATION          = ErrorCode(0x803b0018)
	HCN_E_GUID_CONVERSION_FAILURE             = ErrorCode(0x803b0019)
	HCN_E_REGKEY_FAILURE                      = ErrorCode(0x803b001a)
	HCN_E_INVALID_JSON                        = ErrorCode(0x803b001b)
	HCN_E_INVALID_JSON_REFERENCE              = ErrorCode(0x803b001c)
	HCN_E_ENDPOINT_SHARING_DISABLED           = ErrorCode(0x803b001d)
	HCN_E_SWITCH_EXTENSION_NOT_FOUND          = ErrorCode(0x803b001f)
	HCN_E_MANAGER_STOPPED                     = ErrorCode(0x803b0020)
	HCN_E_GCN_MODULE_NOT_FOUND                = ErrorCode(0x803b0021)
	HCN_E_GCN_NO_REQUEST_HANDLERS             = ErrorCode(0x803b0022)
	HCN_E_GCN_REQUEST_UNSUPPORTED             = ErrorCode(0x803b0023)
	HCN_E_GCN_RUNTIMEKEYS_FAILED              = ErrorCode(0x803b0024)
	HCN_E_GCN_NETADAPTER_TIMEOUT              = ErrorCode(0x803b0025)
	HCN_E_GCN_NETADAPTER_NOT_FOUND            = ErrorCode(0x803b0026)
	HCN_E_GCN_NETCOMPARTMENT_NOT_FOUND        = ErrorCode(0x803b0027)
	HCN_E_GCN_NETINTERFACE_NOT_FOUND          = ErrorCode(0x803b0028)
	HCN_E_GCN_DEFAULTNAMESPACE_EXISTS         = ErrorCode(0x803b0029)
	HCN_E_ICS_DISABLED                        = ErrorCode(0x803b002a)
	HCN_E_ENDPOINT_NAMESPACE_ALREADY_EXISTS   = ErrorCode(0x803b002b)
	HCN_E_ENTITY_HAS_REFERENCES               = ErrorCode(0x803b002c)
	HCN_E_INVALID_INTERNAL_PORT               = ErrorCode(0x803b002d)
	HCN_E_NAMESPACE_ATTACH_FAILED             = ErrorCode(0x803b002e)
	HCN_E_ADDR_INVALID_OR_RESERVED            = ErrorCode(0x803b002f)
	HCN_E_INVALID_PREFIX                      = ErrorCode(0x803b0030)
	HCN_E_OBJECT_USED_AFTER_UNLOAD            = ErrorCode(0x803b0031)
	HCN_E_INVALID_SUBNET                      = ErrorCode(0x803b0032)
	HCN_E_INVALID_IP_SUBNET                   = ErrorCode(0x803b0033)
	HCN_E_ENDPOINT_NOT_ATTACHED               = ErrorCode(0x803b0034)
	HCN_E_ENDPOINT_NOT_LOCAL                  = ErrorCode(0x803b0035)
	HCN_E_INTERFACEPARAMETERS_ALREADY_APPLIED = ErrorCode(0x803b0036)
	HCN_E_VFP_NOT_ALLOWED                     = ErrorCode(0x803b0037)
)

// Codes of other facilities, as full HRESULTs.
const (
	E_FAIL              = ErrorCode(0x80004005)
	E_ACCESSDENIED      = ErrorCode(0x80070005)
	E_DUPLICATE_NAME    = ErrorCode(0x80070034) // prefix overlap
	E_INVALID_PARAMETER = ErrorCode(0x80070057)
	E_ALREADY_EXISTS    = ErrorCode(0x800700b7)
	E_ELEMENT_NOT_FOUND = ErrorCode(0x80070490)
	E_OBJECT_EXISTS     = ErrorCode(0x80071392)
)

// Text is the sentence that goes with a code, "" if the code is unknown.
func (c ErrorCode) Text() string {
	text, _ := c.describe()
	return text
}

// HTTPStatus is what a record with this code is answered with.
func (c ErrorCode) HTTPStatus() int {
	_, status := c.describe()
	return status
}

// win32 cuts an HRESULT of facility Win32 to the code inside it.
func (c ErrorCode) win32() ErrorCode {
	if c&0xffff0000 == 0x80070000 {
		return c & 0xffff
	}
	return c
}

func (c ErrorCode) describe() (text string, status int) {
	switch c {
	case HCN_E_NETWORK_NOT_FOUND:
		return "The network was not found.", 404
	case HCN_E_ENDPOINT_NOT_FOUND:
		return "The endpoint was not found.", 404
	case HCN_E_LAYER_NOT_FOUND:
		return "The network's underlying layer was not found.", 404
	case HCN_E_SWITCH_NOT_FOUND:
		return "The virtual switch was not found.", 500
	case HCN_E_SUBNET_NOT_FOUND:
		return "The network does not have a subnet for this request.", 404
	case HCN_E_ADAPTER_NOT_FOUND:
		return "An adapter was not found.", 404
	case HCN_E_PORT_NOT_FOUND:
		return "The switch-port was not found.", 404
	case HCN_E_POLICY_NOT_FOUND:
		return "An expected policy was not found.", 404
	case HCN_E_VFP_PORTSETTING_NOT_FOUND:
		return "A required port setting was not found.", 500
	case HCN_E_INVALID_NETWORK:
		return "The provided network configuration is invalid or missing parameters.", 400
	case HCN_E_INVALID_NETWORK_TYPE:
		return "Invalid network type.", 400
	case HCN_E_INVALID_ENDPOINT:
		return "The provided endpoint configuration is invalid or missing parameters.", 400
	case HCN_E_INVALID_POLICY:
		return "The provided policy configuration is invalid or missing parameters.", 400
	case HCN_E_INVALID_POLICY_TYPE:
		return "Invalid policy type.", 400
	case HCN_E_INVALID_REMOTE_ENDPOINT_OPERATION:
		return "This requested operation is invalid for a remote endpoint.", 400
	case HCN_E_NETWORK_ALREADY_EXISTS:
		return "A network with this name already exists.", 409
	case HCN_E_LAYER_ALREADY_EXISTS:
		return "A network with this name already exists.", 409
	case HCN_E_POLICY_ALREADY_EXISTS:
		return "Policy information already exists on this object.", 409
	case HCN_E_PORT_ALREADY_EXISTS:
		return "The specified port already exists.", 409
	case HCN_E_ENDPOINT_ALREADY_ATTACHED:
		return "This endpoint is already attached to the switch.", 409
	case HCN_E_REQUEST_UNSUPPORTED:
		return "The specified request is unsupported.", 400
	case HCN_E_MAPPING_NOT_SUPPORTED:
		return "Port mapping is not supported on the given network.", 400
	case HCN_E_DEGRADED_OPERATION:
		return "There was an operation attempted on a degraded object.", 500
	case HCN_E_SHARED_SWITCH_MODIFICATION:
		return "Cannot modify a switch shared by multiple networks.", 409
	case HCN_E_GUID_CONVERSION_FAILURE:
		return "Failed to interpret a parameter as a GUID.", 400
	case HCN_E_REGKEY_FAILURE:
		return "Failed to process the store.", 500
	case HCN_E_INVALID_JSON:
		return "Invalid JSON document string.", 400
	case HCN_E_INVALID_JSON_REFERENCE:
		return "The reference is invalid in the JSON document.", 400
	case HCN_E_ENDPOINT_SHARING_DISABLED:
		return "Endpoint sharing is disabled.", 409
	case HCN_E_INVALID_IP:
		return "IP address is either invalid or not part of any configured subnet(s).", 400
	case HCN_E_SWITCH_EXTENSION_NOT_FOUND:
		return "The specified switch extension does not exist on this switch.", 404
	case HCN_E_MANAGER_STOPPED:
		return "Operation cannot be performed while service is stopping.", 503
	case HCN_E_GCN_MODULE_NOT_FOUND:
		return "Guest network service: module not found.", 502
	case HCN_E_GCN_NO_REQUEST_HANDLERS:
		return "Guest network service: no request handlers.", 502
	case HCN_E_GCN_REQUEST_UNSUPPORTED:
		return "Guest network service: request unsupported.", 502
	case HCN_E_GCN_RUNTIMEKEYS_FAILED:
		return "Guest network service: runtime keys failed.", 502
	case HCN_E_GCN_NETADAPTER_TIMEOUT:
		return "Guest network service: timed out waiting for an adapter.", 502
	case HCN_E_GCN_NETADAPTER_NOT_FOUND:
		return "Guest network service: adapter not found.", 502
	case HCN_E_GCN_NETCOMPARTMENT_NOT_FOUND:
		return "Guest network service: compartment not found.", 502
	case HCN_E_GCN_NETINTERFACE_NOT_FOUND:
		return "Guest network service: interface not found.", 502
	case HCN_E_GCN_DEFAULTNAMESPACE_EXISTS:
		return "Guest network service: a default namespace exists.", 409
	case HCN_E_ICS_DISABLED:
		return "Internet connection sharing is disabled.", 400
	case HCN_E_ENDPOINT_NAMESPACE_ALREADY_EXISTS:
		return "This requested operation is invalid as the endpoint is already part of a network namespace.", 409
	case HCN_E_ENTITY_HAS_REFERENCES:
		return "The specified entity cannot be removed while it still has references.", 409
	case HCN_E_INVALID_INTERNAL_PORT:
		return "The internal port must exist and cannot be zero.", 400
	case HCN_E_NAMESPACE_ATTACH_FAILED:
		return "The requested operation for attach namespace failed.", 500
	case HCN_E_ADDR_INVALID_OR_RESERVED:
		return "The specified address is already in use, invalid, or reserved.", 409
	case HCN_E_INVALID_PREFIX:
		return "The prefix provided is invalid.", 400
	case HCN_E_OBJECT_USED_AFTER_UNLOAD:
		return "A call was performed against an object that was torn down.", 500
	case HCN_E_INVALID_SUBNET:
		return "The provided subnet configuration is invalid or missing parameters.", 400
	case HCN_E_INVALID_IP_SUBNET:
		return "The provided IP subnet configuration is invalid or missing parameters.", 400
	case HCN_E_ENDPOINT_NOT_ATTACHED:
		return "The endpoint must be attached to complete the operation.", 409
	case HCN_E_ENDPOINT_NOT_LOCAL:
		return "The endpoint must be local to complete the operation.", 400
	case HCN_E_INTERFACEPARAMETERS_ALREADY_APPLIED:
		return "The interface parameters have already been applied.", 409
	case HCN_E_VFP_NOT_ALLOWED:
		return "The virtual switch does not allow this request.", 403
	case HCN_E_NOTIMPL:
		return "Not implemented.", 501
	case E_FAIL:
		return "Unspecified error.", 500
	}
	switch c.win32() {
	case 0x5:
		return "Access is denied.", 403
	case 0x34:
		return "You were not connected because a duplicate name exists on the network.", 409
	case 0x57:
		return "The parameter is incorrect.", 400
	case 0xb7:
		return "Cannot create a file when that file already exists.", 409
	case ERROR_NOT_FOUND:
		return "Element not found.", 404
	case 0x1392:
		return "The object already exists.", 409
	}
	return "", 500
}
