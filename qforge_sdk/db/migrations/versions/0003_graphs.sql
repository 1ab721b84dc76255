-- Molecules known by their graph are found by it, also once they have a SMILES. Few have a graph_hash.
CREATE INDEX molecules_graph ON public.molecules (user_id, graph_hash) WHERE graph_hash IS NOT NULL;
