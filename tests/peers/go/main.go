// Command go-peers verifies recorded Evidence with go-sev-guest and go-tdx-guest.
//
//	go-peers JOBS.json SECONDS ANSWERS.json
//
// writes one JSON array: for each job its id, the reason why it is refused, and, if SECONDS is above zero, the
// median of one verification in nanoseconds.
package main

import (
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	sevabi "github.com/google/go-sev-guest/abi"
	sevpb "github.com/google/go-sev-guest/proto/sevsnp"
	sevverify "github.com/google/go-sev-guest/verify"
	sevtrust "github.com/google/go-sev-guest/verify/trust"
	tdxverify "github.com/google/go-tdx-guest/verify"
	"github.com/google/logger"
)

type job struct {
	ID     string  `json:"id"`
	Now    int64   `json:"now"`
	Report []byte  `json:"report"`
	SNP    *snpJob `json:"snp"`
	TDX    *tdxJob `json:"tdx"`
}

type snpJob struct {
	ARK          []byte `json:"ark"`
	Intermediate []byte `json:"intermediate"`
	VEK          []byte `json:"vek"`
	IsVLEK       bool   `json:"is_vlek"`
}

type tdxJob struct {
	TCBInfo         []byte `json:"tcb_info"`
	TCBInfoChain    []byte `json:"tcb_info_chain"`
	QEIdentity      []byte `json:"qe_identity"`
	QEIdentityChain []byte `json:"qe_identity_chain"`
	PCKCRL          []byte `json:"pck_crl"`
	PCKCRLChain     []byte `json:"pck_crl_chain"`
	RootCRL         []byte `json:"root_crl"`
}

type answer struct {
	ID          string  `json:"id"`
	Error       string  `json:"error"`
	Nanoseconds float64 `json:"nanoseconds"`
}

// Get answers as Intel's service would, from the job. Without network, so that only verification is measured.
func (j *tdxJob) Get(address string) (map[string][]string, []byte, error) {
	chain := func(name string, pem []byte) map[string][]string {
		return map[string][]string{name: {url.QueryEscape(string(pem))}}
	}
	switch {
	case strings.Contains(address, "/tcb?"):
		return chain("Tcb-Info-Issuer-Chain", j.TCBInfoChain), j.TCBInfo, nil
	case strings.Contains(address, "/qe/identity"):
		return chain("Sgx-Enclave-Identity-Issuer-Chain", j.QEIdentityChain), j.QEIdentity, nil
	case strings.Contains(address, "/pckcrl"):
		return chain("Sgx-Pck-Crl-Issuer-Chain", j.PCKCRLChain), j.PCKCRL, nil
	default:
		return nil, j.RootCRL, nil
	}
}

// noNetwork is asked for nothing: all certificates are in the attestation.
type noNetwork struct{}

func (noNetwork) Get(address string) ([]byte, error) {
	return nil, fmt.Errorf("asked for %s", address)
}

func (j *job) verifySNP() error {
	report, err := sevabi.ReportToProto(j.Report)
	if err != nil {
		return err
	}
	chain := &sevpb.CertificateChain{ArkCert: j.SNP.ARK, AskCert: j.SNP.Intermediate}
	if j.SNP.IsVLEK {
		chain.VlekCert = j.SNP.VEK
	} else {
		chain.VcekCert = j.SNP.VEK
	}
	options := sevverify.DefaultOptions()
	options.DisableCertFetching = true
	options.Getter = sevtrust.HTTPSGetter(noNetwork{})
	options.Now = time.Unix(j.Now, 0)
	attestation := &sevpb.Attestation{Report: report, CertificateChain: chain}
	return sevverify.SnpAttestation(attestation, options)
}

func (j *job) verifyTDX() error {
	options := tdxverify.DefaultOptions()
	options.CheckRevocations, options.GetCollateral = true, true
	options.Getter = j.TDX
	options.Now = time.Unix(j.Now, 0)
	options.TrustedRoots = (*x509.CertPool)(nil)
	return tdxverify.RawTdxQuote(j.Report, options)
}

func (j *job) verify() error {
	if j.SNP != nil {
		return j.verifySNP()
	}
	return j.verifyTDX()
}

// median of single runs within that many seconds, at least eleven.
func (j *job) measure(seconds float64) float64 {
	var runs []float64
	for end := time.Now().Add(time.Duration(seconds * float64(time.Second))); len(runs) < 11 || time.Now().Before(end); {
		start := time.Now()
		_ = j.verify()
		runs = append(runs, float64(time.Since(start).Nanoseconds()))
	}
	slices.Sort(runs)
	return runs[len(runs)/2]
}

func run(path, seconds string) ([]answer, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var jobs []job
	if err := json.Unmarshal(text, &jobs); err != nil {
		return nil, err
	}
	length, err := strconv.ParseFloat(seconds, 64)
	if err != nil {
		return nil, err
	}
	answers := []answer{}
	for i := range jobs {
		it := answer{ID: jobs[i].ID}
		if err := jobs[i].verify(); err != nil {
			it.Error = err.Error()
		} else if length > 0 {
			it.Nanoseconds = jobs[i].measure(length)
		}
		answers = append(answers, it)
	}
	return answers, nil
}

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: go-peers JOBS.json SECONDS ANSWERS.json")
		os.Exit(64)
	}
	// Writing the libraries' log would be measured too.
	logger.Init("", false, false, io.Discard)
	answers, err := run(os.Args[1], os.Args[2])
	if err == nil {
		var text []byte
		if text, err = json.Marshal(answers); err == nil {
			err = os.WriteFile(os.Args[3], text, 0o600)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
