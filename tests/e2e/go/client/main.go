// SPDX-License-Identifier: Apache-2.0 OR MIT

// Speaks SPIFFE by go-spiffe, and says what it saw, a JSON line each. Its words are those of spiffe_client.py.
//
// It finds the daemon by SPIFFE_ENDPOINT_SOCKET alone.
package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

const patience = 15 * time.Second

type line map[string]any

func say(said line) {
	if err := json.NewEncoder(os.Stdout).Encode(said); err != nil {
		panic(err)
	}
}

func svids(ctx context.Context, audience string) error {
	client, err := workloadapi.New(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	x509, err := client.FetchX509Context(ctx)
	if err != nil {
		return err
	}
	names := []string{}
	for _, svid := range x509.SVIDs {
		names = append(names, svid.ID.String())
	}
	token, err := client.FetchJWTSVID(ctx, jwtsvid.Params{Audience: audience})
	if err != nil {
		return err
	}
	bundles, err := client.FetchJWTBundles(ctx)
	if err != nil {
		return err
	}
	// By the library's own cryptography, and by the daemon.
	offline, err := jwtsvid.ParseAndValidate(token.Marshal(), bundles, []string{audience})
	if err != nil {
		return err
	}
	online, err := client.ValidateJWTSVID(ctx, token.Marshal(), audience)
	if err != nil {
		return err
	}
	say(line{"x509": names, "offline": offline.ID.String(), "online": online.ID.String()})
	nobody := spiffeid.RequireFromString("spiffe://example.org/nobody")
	_, err = client.FetchJWTSVID(ctx, jwtsvid.Params{Audience: audience, Subject: nobody})
	say(line{"refused": words(err)})
	return nil
}

func token(ctx context.Context, audience string) error {
	token, err := workloadapi.FetchJWTSVID(ctx, jwtsvid.Params{Audience: audience})
	if err != nil {
		return err
	}
	say(line{"token": token.Marshal()})
	return nil
}

// By the library's own cryptography, and by whoever serves the Workload API.
func validate(ctx context.Context, token, audience string) error {
	bundles, err := workloadapi.FetchJWTBundles(ctx)
	if err != nil {
		return err
	}
	said := line{}
	for how, check := range map[string]func() (*jwtsvid.SVID, error){
		"offline": func() (*jwtsvid.SVID, error) { return jwtsvid.ParseAndValidate(token, bundles, []string{audience}) },
		"online":  func() (*jwtsvid.SVID, error) { return workloadapi.ValidateJWTSVID(ctx, token, audience) },
	} {
		if svid, err := check(); err != nil {
			said[how] = err.Error()
		} else {
			said[how] = svid.ID.String()
		}
	}
	say(said)
	return nil
}

func words(err error) any {
	if err == nil {
		return nil
	}
	return err.Error()
}

func rotations(ctx context.Context, count int) error {
	source, err := workloadapi.NewX509Source(ctx)
	if err != nil {
		return err
	}
	defer source.Close()
	serials := []string{}
	for len(serials) < count {
		svid, err := source.GetX509SVID()
		if err != nil {
			return err
		}
		serial := svid.Certificates[0].SerialNumber.Text(16)
		if len(serials) == 0 || serials[len(serials)-1] != serial {
			serials = append(serials, serial)
			continue
		}
		if err := source.WaitUntilUpdated(ctx); err != nil {
			return err
		}
	}
	say(line{"serials": serials})
	return nil
}

func serve(ctx context.Context, peer string) error {
	id, err := spiffeid.FromString(peer)
	if err != nil {
		return err
	}
	listener, err := spiffetls.Listen(ctx, "tcp", "127.0.0.1:0", tlsconfig.AuthorizeID(id))
	if err != nil {
		return err
	}
	say(line{"port": listener.Addr().(*net.TCPAddr).Port})
	for {
		connection, err := listener.Accept()
		if err != nil {
			return err
		}
		received := make([]byte, 1024)
		length, err := connection.Read(received)
		if err != nil && !errors.Is(err, io.EOF) {
			say(line{"error": err.Error()})
		} else if _, err := connection.Write(append([]byte("echo:"), received[:length]...)); err != nil {
			say(line{"error": err.Error()})
		}
		connection.Close()
	}
}

func call(ctx context.Context, port, peer string) error {
	id, err := spiffeid.FromString(peer)
	if err != nil {
		return err
	}
	connection, err := spiffetls.Dial(ctx, "tcp", "127.0.0.1:"+port, tlsconfig.AuthorizeID(id))
	if err != nil {
		say(line{"refused": err.Error()})
		return nil
	}
	defer connection.Close()
	if _, err := connection.Write([]byte("hello")); err != nil {
		say(line{"refused": err.Error()})
		return nil
	}
	answer, err := io.ReadAll(connection)
	if err != nil {
		say(line{"refused": err.Error()})
		return nil
	}
	version := "none"
	if state, ok := connection.(interface{ ConnectionState() tls.ConnectionState }); ok {
		version = tls.VersionName(state.ConnectionState().Version)
	}
	say(line{"answer": string(answer), "version": version})
	return nil
}

func run(arguments []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	switch {
	case len(arguments) == 2 && arguments[0] == "svids":
		return svids(ctx, arguments[1])
	case len(arguments) == 2 && arguments[0] == "rotations":
		count, err := strconv.Atoi(arguments[1])
		if err != nil {
			return err
		}
		return rotations(ctx, count)
	case len(arguments) == 2 && arguments[0] == "token":
		return token(ctx, arguments[1])
	case len(arguments) == 3 && arguments[0] == "validate":
		return validate(ctx, arguments[1], arguments[2])
	case len(arguments) == 2 && arguments[0] == "serve":
		return serve(context.Background(), arguments[1])
	case len(arguments) == 3 && arguments[0] == "call":
		return call(ctx, arguments[1], arguments[2])
	}
	return fmt.Errorf("unknown arguments %q", arguments)
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
