# SPDX-License-Identifier: BSD-2-Clause
"""What strangers, clients and the network may do to a server, and the tests that show what comes of it.

The same form as the table of attacks on a client, and checked by the same test.
"""

from __future__ import annotations

from tests.pair.hostile.coverage import Attack

NUMBERS = (*range(1, 16), *range(17, 20), *range(21, 30), *range(33, 38), 40, 53, 55, 61, 64, 65)
"""Those of the catalogue in which the server is the victim."""

HERE = "pair/hostile/server/"
PAIR = "pair/test_server.py::"
PROTOCOL = "unit/protocol/"
PLANE = "unit/dataplane/"

ATTACKS = (
    Attack(
        1, "random bytes of every length and every first byte",
        (HERE + "test_datagrams.py::test_noise_of_every_length_and_first_byte",
         "pair/test_fuzz.py::test_no_answer_without_the_key",
         "pair/test_fuzz.py::test_a_day_under_fire"),
    ),
    Attack(
        2, "every opcode under every key id as the first packet",
        (HERE + "test_datagrams.py::test_first_packets_of_every_opcode_and_key_id",
         HERE + "test_opcodes.py::test_whatever_the_state_does_not_take_is_dropped_and_changes_nothing",
         HERE + "test_opcodes.py::test_what_the_state_takes_is_answered_by_one_datagram_at_the_most",
         PAIR + "test_only_a_hard_reset_begins_on_a_connection",
         "pair/test_fuzz.py::test_first_packets_of_every_opcode_key_id_and_length"),
    ),
    Attack(
        3, "packets cut at every byte",
        (HERE + "test_strangers.py::test_a_handshake_cut_at_every_byte",
         PROTOCOL + "test_packet.py::test_every_truncation_is_refused",
         PROTOCOL + "test_client_key.py::test_every_bit_flip_and_truncation_of_a_first_packet_is_refused"),
    ),
    Attack(
        4, "every bit of a protected packet turned",
        (PROTOCOL + "test_wrap.py::test_every_bit_flip_and_every_truncation_is_refused",
         PROTOCOL + "test_client_key.py::test_every_bit_flip_and_truncation_of_a_first_packet_is_refused"),
    ),
    Attack(
        5, "first packets from made-up addresses without end",
        (PAIR + "test_spoofed_resets_cost_an_answer_each_at_most_and_no_memory",
         PROTOCOL + "test_serving.py::test_answers_are_rationed_and_keep_nothing",
         "pair/test_client_key.py::test_a_flood_of_valid_first_packets_leaves_nothing"),
    ),
    Attack(
        6, "used as an amplifier",
        (HERE + "test_datagrams.py::test_a_first_packet_is_answered_once_and_no_more",
         PROTOCOL + "test_serving.py::test_the_answer_is_26_bytes_to_14",
         PROTOCOL + "test_serving.py::test_the_answer_is_66_bytes_to_54_under_tls_crypt",
         PROTOCOL + "test_client_key.py::test_the_answer_asks_for_the_key_and_is_smaller_than_the_question",
         "pair/test_client_key.py::test_an_unproved_address_is_answered_once_per_packet"),
    ),
    Attack(
        7, "a cookie at another address, port or session",
        (HERE + "test_datagrams.py::test_a_cookie_from_another_port",
         PROTOCOL + "test_serving.py::test_a_cookie_is_bad_for_another_place_or_session"),
    ),
    Attack(8, "a cookie that is too old or of the future", (PROTOCOL + "test_serving.py::test_age_of_a_cookie",)),
    Attack(
        9, "third packets with other message ids and too many acknowledgements",
        (PROTOCOL + "test_serving.py::test_a_session_begins_with_message_1_that_acknowledges_0",
         PROTOCOL + "test_packet.py::test_number_of_acknowledgements"),
    ),
    Attack(
        10, "acknowledgements of what was never sent; a day of silence",
        (PROTOCOL + "test_legality.py::test_acknowledgements_of_what_was_never_sent_change_nothing",
         PROTOCOL + "test_reliability.py::test_the_retransmission_time_is_bounded_for_a_day"),
    ),
    Attack(
        11, "a hard reset that is not message 0",
        (PROTOCOL + "test_serving.py::test_only_a_first_packet_is_answered",),
    ),
    Attack(
        12, "a hard reset under another key id",
        (PROTOCOL + "test_serving.py::test_only_a_first_packet_is_answered",),
    ),
    Attack(
        13, "wrapped keys of every length, none, two, in the wrong packet or too late",
        (PROTOCOL + "test_client_key.py::test_a_wrapped_key_of_made_up_length",
         "unit/crypto/test_wrappedkey.py::test_a_length_that_no_wrapped_key_has",
         "unit/crypto/test_wrappedkey.py::test_a_wrapped_key_that_is_longer_than_its_packet",
         "pair/test_client_key.py::test_first_packets_inside_a_session",
         "pair/test_client_key.py::test_noise_under_the_new_opcodes"),
    ),
    Attack(
        14, "a wrapped key whose metadata do not fit",
        (PROTOCOL + "test_client_key.py::test_age_of_a_client_key",
         PROTOCOL + "test_client_key.py::test_a_client_key_that_does_not_tell_its_age",
         "pair/test_client_key.py::test_who_does_not_fit_is_not_answered"),
    ),
    Attack(
        15, "a wrapped key played back from elsewhere",
        ("pair/test_client_key.py::test_a_stolen_second_packet_is_of_no_use_elsewhere",),
    ),
    Attack(
        17, "a recorded handshake hours later, times that run backwards",
        (PAIR + "test_a_recorded_handshake_played_back_later_makes_no_session",
         "unit/crypto/test_replay.py::test_control_time_backwards_is_refused"),
    ),
    Attack(
        18, "TCP: impossible lengths, a byte now and then, thousands of connections that say nothing",
        (HERE + "test_datagrams.py::test_impossible_lengths_on_a_connection",
         PAIR + "test_connections_that_never_speak_are_closed",
         PAIR + "test_connections_that_speak_nonsense_slowly_are_closed_in_the_same_time",
         PAIR + "test_a_handshake_that_stops_is_closed",
         PAIR + "test_silent_connections_are_bounded_and_cheap",
         PLANE + "test_framing.py::test_impossible_lengths_end_the_stream"),
    ),
    Attack(
        19, "floods of TLS records, 16 MB of them",
        (HERE + "test_strangers.py::test_floods_instead_of_a_handshake",
         HERE + "test_clients.py::test_records_of_any_kind"),
    ),
    Attack(
        21, "key method 2 of another number, with strings that do not fit",
        (HERE + "test_clients.py::test_a_bad_introduction_ends_that_session_alone",
         PROTOCOL + "test_wire_texts.py::test_malformed_key_method_2_ends_the_session"),
    ),
    Attack(
        22, "peer info of a thousand lines, twice, with odd numbers",
        (HERE + "test_clients.py::test_odd_peer_info",
         PROTOCOL + "test_wire_texts.py::test_a_number_that_is_none_counts_as_not_said",
         PROTOCOL + "test_wire_texts.py::test_the_first_of_two_counts",
         PROTOCOL + "test_wire_texts.py::test_junk_says_nothing",
         PROTOCOL + "test_wire_texts.py::test_lines_and_ciphers_beyond_their_bound_are_not_read"),
    ),
    Attack(
        23, "push requests before anything is decided, and in floods",
        ("pair/test_server_login.py::test_nothing_is_given_before_the_verdict",
         PAIR + "test_a_flood_of_push_requests_is_answered_once"),
    ),
    Attack(24, "farewells over and over", (PAIR + "test_exit_is_one_farewell_however_often_it_is_said",)),
    Attack(
        25, "soft resets in floods, too early, out of turn, from both sides at once",
        ("pair/test_renegotiation.py::test_a_flood_of_soft_resets_is_one_renegotiation",
         "pair/test_renegotiation.py::test_from_either_side_and_from_both_at_once",
         PROTOCOL + "test_legality.py::test_what_is_not_in_the_table_is_refused_and_leaves_no_trace",
         PROTOCOL + "test_legality.py::test_legal_packets_with_one_thing_wrong_leave_no_trace"),
    ),
    Attack(
        26, "somebody else in a renegotiation",
        ("pair/test_renegotiation.py::test_another_certificate_in_a_renegotiation_ends_the_session",
         "pair/test_renegotiation.py::test_another_user_name_in_a_renegotiation_ends_the_session"),
    ),
    Attack(
        27, "hard resets from a client's address",
        (PAIR + "test_a_hard_reset_from_the_victims_address_leaves_its_session_alone",
         PAIR + "test_a_session_without_a_certificate_from_the_victims_address_changes_nothing"),
    ),
    Attack(
        28, "a session that goes while it has something to say",
        (HERE + "test_clients.py::test_nothing_of_a_replaced_session_is_sent_any_more",
         PAIR + "test_a_client_that_begins_again_replaces_itself_only_when_authenticated"),
    ),
    Attack(
        29, "data packets: id 0, repeated, around the window, leaps, near the end of the numbers",
        (PLANE + "test_reference.py::test_replays_and_the_edge_of_the_window",
         PLANE + "test_reference.py::test_packet_id_zero_and_a_leap_of_half_the_range",
         "unit/crypto/test_replay.py::test_near_the_end_of_the_numbers"),
    ),
    Attack(
        33, "inner packets that lie about their source or their length",
        (PLANE + "test_peers.py::test_a_spoofed_source_is_dropped",
         PLANE + "test_peers.py::test_a_server_peer_without_addresses_is_mute",
         PLANE + "test_reference.py::test_malformed_inner_packets_do_not_reach_the_tun",
         PLANE + "test_ip.py::test_bad_versions_and_header_lengths",
         PLANE + "test_ip.py::test_every_other_length_is_refused",
         PLANE + "test_ip.py::test_an_ipv6_jumbogram_is_refused"),
    ),
    Attack(
        34, "the peer id of somebody else",
        (PLANE + "test_peers.py::test_the_peer_id_of_somebody_else",
         PLANE + "test_float.py::test_a_peer_id_of_another_peer_with_ones_own_key"),
    ),
    Attack(
        35, "moving without end, and to where others are",
        (HERE + "test_clients.py::test_a_thousand_moves_in_a_renegotiation",
         "pair/test_datachannel.py::test_no_client_moves_to_where_another_is",
         PLANE + "test_float.py::test_not_onto_another_peers_address_nor_across_links"),
    ),
    Attack(36, "a captured packet from elsewhere", (PLANE + "test_float.py::test_nothing_else_moves_it",)),
    Attack(
        37, "fragments: overlap, numbers, sizes, last twice, too many at once",
        (PLANE + "payload/test_fragment.py::test_malformed_fragments",
         PLANE + "payload/test_fragment.py::test_buffers_are_bounded_and_the_oldest_goes",
         PLANE + "payload/test_fragment.py::test_random_fragments_never_do_worse_than_nothing"),
    ),
    Attack(
        40, "pings and OCC messages in floods, an exit that is not authentic",
        (PLANE + "test_reference.py::test_occ_messages_are_handed_up_and_exit_is_told_once",
         PLANE + "test_reference.py::test_exit_has_to_be_authentic",
         PLANE + "test_reference.py::test_a_ping_is_a_sign_of_life"),
    ),
    Attack(
        53, "callers of the management socket who speak something else, too much, or nothing",
        ("unit/runtime/operating/test_management.py::test_callers_who_speak_something_else",
         "unit/runtime/operating/test_management.py::test_callers_are_bounded",
         "unit/runtime/operating/test_management.py::test_answers"),
    ),
    Attack(
        55, "names that would break the log, the status or the file of leases, or that lead out of client-config-dir",
        ("unit/runtime/operating/test_roster.py::test_a_name_adds_no_field_and_no_line",
         "unit/runtime/operating/test_leases.py::test_what_is_written_is_read_again",
         "unit/config/test_perclient.py::test_a_name_that_is_no_files_is_refused",
         "pair/test_server_combinations.py::test_a_name_finds_its_own_file_or_none",
         "pair/test_server_combinations.py::test_a_long_name_is_a_files_or_nobodys",
         PROTOCOL + "test_policies.py::test_a_hostile_name_is_shown_printably",
         "unit/crypto/test_x509.py::test_control_characters_in_a_name_are_refused"),
    ),
    Attack(
        61, "a client that takes another's place in a flow",
        (HERE + "test_clients.py::test_a_probe_in_another_clients_name_reaches_nobody",
         PLANE + "test_peers.py::test_a_spoofed_source_is_dropped",
         PLANE + "test_peers.py::test_peers_do_not_reach_each_other_unless_allowed"),
    ),
    Attack(
        64, "clocks that leap by a day and by 68 years",
        ("pair/test_renegotiation.py::test_a_leap_of_the_clock",
         "pair/test_renegotiation.py::test_a_leap_of_the_wall_clock_does_not_disturb_a_tunnel",
         PROTOCOL + "test_wrap.py::test_any_wall_clock_fits_the_stamp"),
    ),
    Attack(
        65, "no files, no buffers, packets too long, a full disk",
        ("unit/runtime/test_transports.py::test_an_acceptor_out_of_files_looks_away_and_comes_back",
         "unit/runtime/test_links.py::test_udp_errors_cost_packets_only",
         "unit/runtime/test_links.py::test_a_full_udp_socket_blocks_until_it_is_writable",
         "unit/runtime/test_pump.py::test_a_packet_that_the_tun_refuses_is_one_lost_packet",
         "unit/runtime/operating/test_console.py::test_a_full_disk_ends_nothing"),
    ),
)  # fmt: skip
