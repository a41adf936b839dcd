// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hcn

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
)

// GetGlobals returns the version of the service.
func GetGlobals() (*Globals, error) {
	g, err := DefaultClient.Globals(context.Background())
	var refused *HcnError
	if errors.As(err, &refused) {
		return nil, fmt.Errorf("HNS failed with error : %s", refused.record.Error)
	}
	return g, err
}

// known are the features of the service that DefaultClient speaks to, once it said.
var known struct {
	sync.Mutex // guards the rest
	of         *Client
	features   SupportedFeatures
}

// GetCachedSupportedFeatures returns what the service can do. It is asked until it has
// answered once: a program may start before the service.
func GetCachedSupportedFeatures() (SupportedFeatures, error) {
	known.Lock()
	defer known.Unlock()
	if known.of == DefaultClient {
		return known.features, nil
	}
	g, err := GetGlobals()
	if err != nil {
		return SupportedFeatures{}, fmt.Errorf("failed to query HCN version number (this is expected on pre 1803 builds): %w", err)
	}
	known.of, known.features = DefaultClient, FeaturesOf(g.Version)
	return known.features, nil
}

// GetSupportedFeatures returns what the service can do: nothing, if it cannot be asked.
//
// Deprecated: use GetCachedSupportedFeatures, which tells the error.
func GetSupportedFeatures() SupportedFeatures {
	f, err := GetCachedSupportedFeatures()
	if err != nil {
		slog.Error("unable to obtain supported features", "error", err)
	}
	return f
}

func supported(name string, has func(SupportedFeatures) bool) error {
	f, err := GetCachedSupportedFeatures()
	if err != nil {
		return err
	}
	if !has(f) {
		return fmt.Errorf("platform does not support feature %s", name)
	}
	return nil
}

// V2ApiSupported returns an error if the service lacks the feature, or cannot be asked.
func V2ApiSupported() error {
	return supported("V2 Api/Schema", func(f SupportedFeatures) bool { return f.Api.V2 })
}

// RemoteSubnetSupported returns an error if the service lacks the feature, or cannot be asked.
func RemoteSubnetSupported() error {
	return supported("Remote Subnet", func(f SupportedFeatures) bool { return f.RemoteSubnet })
}

// HostRouteSupported returns an error if the service lacks the feature, or cannot be asked.
func HostRouteSupported() error {
	return supported("Host Route", func(f SupportedFeatures) bool { return f.HostRoute })
}

// DSRSupported returns an error if the service lacks the feature, or cannot be asked.
func DSRSupported() error {
	return supported("Direct Server Return (DSR)", func(f SupportedFeatures) bool { return f.DSR })
}

// Slash32EndpointPrefixesSupported returns an error if the service lacks the feature, or cannot be asked.
func Slash32EndpointPrefixesSupported() error {
	return supported("Slash 32 Endpoint prefixes", func(f SupportedFeatures) bool { return f.Slash32EndpointPrefixes })
}

// AclSupportForProtocol252Supported returns an error if the service lacks the feature, or cannot be asked.
func AclSupportForProtocol252Supported() error {
	return supported("HNS ACL Policies to support protocol 252 for VXLAN", func(f SupportedFeatures) bool { return f.AclSupportForProtocol252 })
}

// SessionAffinitySupported returns an error if the service lacks the feature, or cannot be asked.
func SessionAffinitySupported() error {
	return supported("Session Affinity", func(f SupportedFeatures) bool { return f.SessionAffinity })
}

// IPv6DualStackSupported returns an error if the service lacks the feature, or cannot be asked.
func IPv6DualStackSupported() error {
	return supported("IPv6 DualStack", func(f SupportedFeatures) bool { return f.IPv6DualStack })
}

// SetPolicySupported returns an error if the service lacks the feature, or cannot be asked.
func SetPolicySupported() error {
	return supported("SetPolicy", func(f SupportedFeatures) bool { return f.SetPolicy })
}

// VxlanPortSupported returns an error if the service lacks the feature, or cannot be asked.
func VxlanPortSupported() error {
	return supported("VXLAN port configuration", func(f SupportedFeatures) bool { return f.VxlanPort })
}

// L4proxyPolicySupported returns an error if the service lacks the feature, or cannot be asked.
func L4proxyPolicySupported() error {
	return supported("L4ProxyPolicy", func(f SupportedFeatures) bool { return f.L4Proxy })
}

// L4WfpProxyPolicySupported returns an error if the service lacks the feature, or cannot be asked.
func L4WfpProxyPolicySupported() error {
	return supported("L4WfpProxyPolicy", func(f SupportedFeatures) bool { return f.L4WfpProxy })
}

// TierAclPolicySupported returns an error if the service lacks the feature, or cannot be asked.
func TierAclPolicySupported() error {
	return supported("TierAcl", func(f SupportedFeatures) bool { return f.TierAcl })
}

// NetworkACLPolicySupported returns an error if the service lacks the feature, or cannot be asked.
func NetworkACLPolicySupported() error {
	return supported("NetworkACL", func(f SupportedFeatures) bool { return f.NetworkACL })
}

// NestedIpSetSupported returns an error if the service lacks the feature, or cannot be asked.
func NestedIpSetSupported() error {
	return supported("NestedIpSet", func(f SupportedFeatures) bool { return f.NestedIpSet })
}

// DisableHostPortSupported returns an error if the service lacks the feature, or cannot be asked.
func DisableHostPortSupported() error {
	return supported("DisableHostPort", func(f SupportedFeatures) bool { return f.DisableHostPort })
}

// ModifyLoadbalancerSupported returns an error if the service lacks the feature, or cannot be asked.
func ModifyLoadbalancerSupported() error {
	return supported("ModifyLoadbalancer", func(f SupportedFeatures) bool { return f.ModifyLoadbalancer })
}

// AccelnetSupported returns an error if the service lacks the feature, or cannot be asked.
func AccelnetSupported() error {
	return supported("Accelnet", func(f SupportedFeatures) bool { return f.Accelnet })
}
