// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hcn

import "math"

// Version of the service, or of a document's schema.
type Version struct {
	Major int `json:"Major"`
	Minor int `json:"Minor"`
}

// SchemaVersion is the version of a document.
type SchemaVersion = Version

// Globals describe the service.
type Globals struct {
	Version Version `json:"Version"`
}

// VersionRange is inclusive at both ends.
type VersionRange struct {
	MinVersion Version
	MaxVersion Version
}

// VersionRanges hold a version if any of them does.
type VersionRanges []VersionRange

func from(major, minor int) VersionRange {
	return VersionRange{Version{major, minor}, Version{math.MaxInt32, math.MaxInt32}}
}

func within(major, minor int) VersionRange {
	return VersionRange{Version{major, minor}, Version{major, math.MaxInt32}}
}

// What version of the service has what feature, as in hnslib hcn/hcnglobals.go.
var (
	HNSVersion1803                  = VersionRanges{from(7, 2)}
	V2ApiSupport                    = VersionRanges{from(9, 2)}
	RemoteSubnetVersion             = VersionRanges{from(9, 2)}
	HostRouteVersion                = VersionRanges{from(9, 2)}
	DSRVersion                      = VersionRanges{within(9, 3), from(10, 2)}
	Slash32EndpointPrefixesVersion  = VersionRanges{within(9, 3), from(10, 4)}
	AclSupportForProtocol252Version = VersionRanges{from(11, 0)}
	SessionAffinityVersion          = VersionRanges{from(12, 0)}
	IPv6DualStackVersion            = VersionRanges{from(11, 10)}
	SetPolicyVersion                = VersionRanges{from(13, 0)}
	VxlanPortVersion                = VersionRanges{from(10, 3)}
	L4ProxyPolicyVersion            = VersionRanges{within(9, 5), within(10, 5), within(11, 11), within(12, 1), from(13, 1)}
	L4WfpProxyPolicyVersion         = VersionRanges{from(13, 2)}
	TierAclPolicyVersion            = VersionRanges{from(14, 0)}
	NetworkACLPolicyVersion         = VersionRanges{from(15, 0)}
	NestedIpSetVersion              = VersionRanges{from(15, 0)}
	DisableHostPortVersion          = VersionRanges{from(15, 1)}
	ModifyLoadbalancerVersion       = VersionRanges{within(15, 5), from(16, 0)}
	AccelnetVersion                 = VersionRanges{from(15, 4)}
)

// SupportedFeatures are what a version of the service can do.
type SupportedFeatures struct {
	Acl                      AclFeatures `json:"ACL"`
	Api                      ApiSupport  `json:"API"`
	RemoteSubnet             bool        `json:"RemoteSubnet"`
	HostRoute                bool        `json:"HostRoute"`
	DSR                      bool        `json:"DSR"`
	Slash32EndpointPrefixes  bool        `json:"Slash32EndpointPrefixes"`
	AclSupportForProtocol252 bool        `json:"AclSupportForProtocol252"`
	SessionAffinity          bool        `json:"SessionAffinity"`
	IPv6DualStack            bool        `json:"IPv6DualStack"`
	SetPolicy                bool        `json:"SetPolicy"`
	VxlanPort                bool        `json:"VxlanPort"`
	L4Proxy                  bool        `json:"L4Proxy"`
	L4WfpProxy               bool        `json:"L4WfpProxy"`
	TierAcl                  bool        `json:"TierAcl"`
	NetworkACL               bool        `json:"NetworkACL"`
	NestedIpSet              bool        `json:"NestedIpSet"`
	DisableHostPort          bool        `json:"DisableHostPort"`
	ModifyLoadbalancer       bool        `json:"ModifyLoadbalancer"`
	Accelnet                 bool        `json:"Accelnet"`
}

// AclFeatures are what ACL policies can say.
type AclFeatures struct {
	AclAddressLists       bool `json:"AclAddressLists"`
	AclNoHostRulePriority bool `json:"AclHostRulePriority"`
	AclPortRanges         bool `json:"AclPortRanges"`
	AclRuleId             bool `json:"AclRuleId"`
}

// ApiSupport says which versions of the documents are spoken.
type ApiSupport struct {
	V1 bool `json:"V1"`
	V2 bool `json:"V2"`
}

// FeaturesOf returns what a service that reports version v can do.
func FeaturesOf(v Version) SupportedFeatures {
	acl := v.in(HNSVersion1803)
	return SupportedFeatures{
		Acl: AclFeatures{AclAddressLists: acl, AclNoHostRulePriority: acl, AclPortRanges: acl, AclRuleId: acl},
		Api: ApiSupport{V1: true, V2: v.in(V2ApiSupport)},

		RemoteSubnet:             v.in(RemoteSubnetVersion),
		HostRoute:                v.in(HostRouteVersion),
		DSR:                      v.in(DSRVersion),
		Slash32EndpointPrefixes:  v.in(Slash32EndpointPrefixesVersion),
		AclSupportForProtocol252: v.in(AclSupportForProtocol252Version),
		SessionAffinity:          v.in(SessionAffinityVersion),
		IPv6DualStack:            v.in(IPv6DualStackVersion),
		SetPolicy:                v.in(SetPolicyVersion),
		VxlanPort:                v.in(VxlanPortVersion),
		L4Proxy:                  v.in(L4ProxyPolicyVersion),
		L4WfpProxy:               v.in(L4WfpProxyPolicyVersion),
		TierAcl:                  v.in(TierAclPolicyVersion),
		NetworkACL:               v.in(NetworkACLPolicyVersion),
		NestedIpSet:              v.in(NestedIpSetVersion),
		DisableHostPort:          v.in(DisableHostPortVersion),
		ModifyLoadbalancer:       v.in(ModifyLoadbalancerVersion),
		Accelnet:                 v.in(AccelnetVersion),
	}
}

func (v Version) in(rs VersionRanges) bool {
	for _, r := range rs {
		if !v.less(r.MinVersion) && !r.MaxVersion.less(v) {
			return true
		}
	}
	return false
}

func (v Version) less(w Version) bool {
	return v.Major < w.Major || v.Major == w.Major && v.Minor < w.Minor
}

// V2SchemaVersion is the schema version of the documents of this package.
func V2SchemaVersion() SchemaVersion { return SchemaVersion{Major: 2} }
