-- An atlas for the DuckDB shell: its tables, and the views over them.
--
--     cd atlas/data/starter-pocket-bert && duckdb -init ../../views.sql      inside an atlas folder: that atlas
--     duckdb -init atlas/views.sql                                           elsewhere: the project's own
--     D SET VARIABLE atlas = 'path/of/an/atlas';                             another one, in a running shell
--     D .read atlas/views.sql
--
-- Part 1 is for the shell alone. Part 2 is also what atlas/store/sources.py reads, so that SQL means the same in both.
-- Columns are described in atlas/store/definitions.py; a null says "not measured", never zero.

-- Part 1: tables ------------------------------------------------------------------------------------------------------

SET VARIABLE atlas = coalesce(
    getvariable('atlas'),
    (SELECT CASE WHEN count(*) > 0 THEN '.' END FROM glob('facts.parquet')),
    (SELECT CASE WHEN count(*) > 0 THEN 'atlas/data/starter-pocket-bert' END
     FROM glob('atlas/data/starter-pocket-bert/facts.parquet')),
    (SELECT CASE WHEN count(*) > 0 THEN 'atlas/data/starter-smollm2-135m' END
     FROM glob('atlas/data/starter-smollm2-135m/facts.parquet')),
    error('There is no atlas here. Start duckdb in an atlas folder, or SET VARIABLE atlas = ''folder'' and .read this file.')
);

-- The folder as a pattern of this folder only. Without hive_partitioning = false, one called subject=x would be a column.
SET VARIABLE atlas_pattern = regexp_replace(getvariable('atlas'), '([*?[])', '[\1]', 'g');

-- The file of a table that an atlas may lack, as a query: without a file, the columns and no rows.
CREATE OR REPLACE TEMP MACRO optional_table(name, columns) AS (
    SELECT CASE
        WHEN count(*) > 0
        THEN 'FROM read_parquet(''' || replace(getvariable('atlas_pattern') || '/' || name || '.parquet', '''', '''''')
            || ''', hive_partitioning = false)'
             || ' UNION ALL BY NAME SELECT ' || columns || ' WHERE false'
        ELSE 'SELECT ' || columns || ' WHERE false'
    END
    FROM glob(getvariable('atlas_pattern') || '/' || name || '.parquet')
);

CREATE OR REPLACE VIEW relations AS
    FROM read_parquet(getvariable('atlas_pattern') || '/relations.parquet', hive_partitioning = false);
-- Older files lack the last columns.
CREATE OR REPLACE VIEW facts AS
    FROM read_parquet(getvariable('atlas_pattern') || '/facts.parquet', hive_partitioning = false)
    UNION ALL BY NAME
    SELECT NULL::BOOLEAN AS contested, NULL::BOOLEAN AS guessable, NULL::SMALLINT AS n_answer_tokens,
           NULL::FLOAT AS consistency WHERE false;
CREATE OR REPLACE VIEW knowledge_neurons AS
    FROM read_parquet(getvariable('atlas_pattern') || '/knowledge_neurons.parquet', hive_partitioning = false)
    UNION ALL BY NAME SELECT NULL::FLOAT AS mean_activation WHERE false;

SET VARIABLE templates = optional_table('templates', '
    NULL::VARCHAR AS relation_id, NULL::VARCHAR AS template_id, NULL::VARCHAR AS text, NULL::BOOLEAN AS held_out');
CREATE OR REPLACE VIEW templates AS FROM query(getvariable('templates'));

SET VARIABLE prompts = optional_table('prompts', '
    NULL::VARCHAR AS fact_id, NULL::VARCHAR AS template_id, NULL::VARCHAR AS text, NULL::BOOLEAN AS held_out,
    NULL::FLOAT AS probability, NULL::INTEGER AS rank, NULL::VARCHAR AS top_token, NULL::FLOAT AS top_probability,
    NULL::FLOAT AS max_gap, NULL::INTEGER AS n_points, NULL::BOOLEAN AS converged, NULL::SMALLINT AS n_answer_tokens,
    NULL::FLOAT AS max_score, NULL::SMALLINT AS n_layers, NULL::INTEGER AS n_unconverged');
CREATE OR REPLACE VIEW prompts AS FROM query(getvariable('prompts'));

SET VARIABLE attributions = optional_table('attributions', '
    NULL::VARCHAR AS fact_id, NULL::VARCHAR AS template_id, NULL::SMALLINT AS layer, NULL::INTEGER AS neuron,
    NULL::FLOAT AS score');
CREATE OR REPLACE VIEW attributions AS FROM query(getvariable('attributions'));

SET VARIABLE neurons = optional_table('neurons', '
    NULL::SMALLINT AS layer, NULL::INTEGER AS neuron, NULL::INTEGER AS n_facts, NULL::INTEGER AS n_relations,
    NULL::FLOAT AS value_norm, NULL::STRUCT(token VARCHAR, logit FLOAT)[] AS promoted,
    NULL::STRUCT(token VARCHAR, logit FLOAT)[] AS suppressed, NULL::VARCHAR AS label, NULL::FLOAT AS label_score,
    NULL::BOOLEAN AS sign_mixed');
CREATE OR REPLACE VIEW neurons AS FROM query(getvariable('neurons'));

SET VARIABLE activating_prompts = optional_table('activating_prompts', '
    NULL::SMALLINT AS layer, NULL::INTEGER AS neuron, NULL::VARCHAR AS side, NULL::SMALLINT AS rank,
    NULL::VARCHAR AS fact_id, NULL::VARCHAR AS template_id, NULL::FLOAT AS activation, NULL::VARCHAR[] AS tokens,
    NULL::FLOAT[] AS activations, NULL::SMALLINT AS answer_position');
CREATE OR REPLACE VIEW activating_prompts AS FROM query(getvariable('activating_prompts'));

SET VARIABLE lens = optional_table('lens', '
    NULL::VARCHAR AS fact_id, NULL::VARCHAR AS template_id, NULL::SMALLINT AS layer, NULL::FLOAT AS probability,
    NULL::INTEGER AS rank, NULL::STRUCT(token VARCHAR, probability FLOAT)[] AS top');
CREATE OR REPLACE VIEW lens AS FROM query(getvariable('lens'));

SET VARIABLE effects = optional_table('effects', '
    NULL::VARCHAR AS fact_id, NULL::VARCHAR AS prompt_fact_id, NULL::VARCHAR AS template_id, NULL::VARCHAR AS
    intervention, NULL::VARCHAR AS "group", NULL::BOOLEAN AS held_out, NULL::INTEGER AS n_neurons, NULL::FLOAT
    AS activity, NULL::FLOAT AS p_before, NULL::FLOAT AS p_after, NULL::INTEGER AS rank_before, NULL::INTEGER AS
    rank_after, NULL::BOOLEAN AS top_changed, NULL::FLOAT AS change');
CREATE OR REPLACE VIEW effects AS FROM query(getvariable('effects'));

SET VARIABLE control_neurons = optional_table('control_neurons', '
    NULL::VARCHAR AS fact_id, NULL::VARCHAR AS "group", NULL::SMALLINT AS draw, NULL::SMALLINT AS layer,
    NULL::INTEGER AS neuron');
CREATE OR REPLACE VIEW control_neurons AS FROM query(getvariable('control_neurons'));

SET VARIABLE effect_summaries = optional_table('effect_summaries', '
    NULL::VARCHAR AS relation_id, NULL::VARCHAR AS intervention, NULL::VARCHAR AS "group", NULL::VARCHAR AS
    templates, NULL::VARCHAR AS facts, NULL::INTEGER AS n_relations, NULL::INTEGER AS n_facts, NULL::INTEGER AS
    n_prompts, NULL::FLOAT AS mean_before, NULL::FLOAT AS mean_after, NULL::FLOAT AS paper_change, NULL::FLOAT
    AS paper_low, NULL::FLOAT AS paper_high, NULL::FLOAT AS replication_change, NULL::FLOAT AS replication_low,
    NULL::FLOAT AS replication_high, NULL::FLOAT AS top_changed, NULL::FLOAT AS activity');
CREATE OR REPLACE VIEW effect_summaries AS FROM query(getvariable('effect_summaries'));

SET VARIABLE specificity = optional_table('specificity', '
    NULL::VARCHAR AS relation_id, NULL::VARCHAR AS part, NULL::FLOAT AS value, NULL::FLOAT AS low, NULL::FLOAT AS
    high, NULL::FLOAT AS share, NULL::FLOAT AS share_low, NULL::FLOAT AS share_high, NULL::INTEGER AS n_relations, NULL::INTEGER AS n_facts, NULL::INTEGER AS n_prompts');
CREATE OR REPLACE VIEW specificity AS FROM query(getvariable('specificity'));

SET VARIABLE generations = optional_table('generations', '
    NULL::VARCHAR AS fact_id, NULL::VARCHAR AS prompt_fact_id, NULL::VARCHAR AS template_id, NULL::VARCHAR AS "group",
    NULL::INTEGER AS n_neurons, NULL::VARCHAR AS text');
CREATE OR REPLACE VIEW generations AS FROM query(getvariable('generations'));

SET VARIABLE edits = optional_table('edits', '
    NULL::VARCHAR AS fact_id, NULL::VARCHAR AS new_object, NULL::FLOAT AS remove, NULL::FLOAT AS add,
    NULL::VARCHAR AS "group", NULL::VARCHAR AS kind, NULL::VARCHAR AS prompt_fact_id, NULL::VARCHAR AS
    template_id, NULL::INTEGER AS n_neurons, NULL::FLOAT AS p_old_before, NULL::FLOAT AS p_old_after,
    NULL::INTEGER AS rank_old_before, NULL::INTEGER AS rank_old_after, NULL::FLOAT AS p_new_before, NULL::FLOAT
    AS p_new_after, NULL::INTEGER AS rank_new_before, NULL::INTEGER AS rank_new_after, NULL::BOOLEAN AS
    top_changed');
CREATE OR REPLACE VIEW edits AS FROM query(getvariable('edits'));

SET VARIABLE erasures = optional_table('erasures', '
    NULL::VARCHAR AS relation_id, NULL::VARCHAR AS "group", NULL::INTEGER AS n_neurons, NULL::VARCHAR AS
    asked_relation_id, NULL::INTEGER AS n_prompts, NULL::FLOAT AS accuracy_before, NULL::FLOAT AS
    accuracy_after, NULL::FLOAT AS perplexity_before, NULL::FLOAT AS perplexity_after, NULL::FLOAT AS
    mean_before, NULL::FLOAT AS mean_after');
CREATE OR REPLACE VIEW erasures AS FROM query(getvariable('erasures'));

SET VARIABLE contexts = optional_table('contexts', '
    NULL::VARCHAR AS fact_id, NULL::VARCHAR AS context, NULL::VARCHAR AS "group", NULL::INTEGER AS n_neurons,
    NULL::INTEGER AS n_prompts, NULL::FLOAT AS activation, NULL::FLOAT AS magnitude, NULL::FLOAT AS relative');
CREATE OR REPLACE VIEW contexts AS FROM query(getvariable('contexts'));

SET VARIABLE statistics = optional_table('statistics', '
    NULL::VARCHAR AS mode, NULL::FLOAT AS threshold, NULL::FLOAT AS share, NULL::INTEGER AS n_facts,
    NULL::INTEGER AS n_empty, NULL::FLOAT AS mean_neurons, NULL::FLOAT AS median_neurons, NULL::INTEGER AS
    most_neurons, NULL::FLOAT AS within, NULL::FLOAT AS across, NULL::FLOAT AS same_object, NULL::FLOAT AS
    other_object, NULL::FLOAT AS identical, NULL::FLOAT AS commonest, NULL::FLOAT AS hubs, NULL::FLOAT[] AS
    layer_shares');
CREATE OR REPLACE VIEW statistics AS FROM query(getvariable('statistics'));

SET VARIABLE stability = optional_table('stability', '
    NULL::VARCHAR AS fact_id, NULL::INTEGER AS n_discovery, NULL::INTEGER AS n_held_out, NULL::INTEGER AS
    shared, NULL::FLOAT AS jaccard, NULL::FLOAT AS jaccard_relation, NULL::FLOAT AS jaccard_random, NULL::FLOAT
    AS p_before, NULL::FLOAT AS p_discovery, NULL::FLOAT AS p_held_out');
CREATE OR REPLACE VIEW stability AS FROM query(getvariable('stability'));

SET VARIABLE subsets = optional_table('subsets', '
    NULL::VARCHAR AS fact_id, NULL::VARCHAR AS "order", NULL::INTEGER AS k, NULL::INTEGER AS n_neurons,
    NULL::FLOAT AS p_before, NULL::FLOAT AS p_after');
CREATE OR REPLACE VIEW subsets AS FROM query(getvariable('subsets'));

SET VARIABLE methods = optional_table('methods', '
    NULL::VARCHAR AS fact_id, NULL::VARCHAR AS method, NULL::VARCHAR AS mode, NULL::INTEGER AS n_neurons,
    NULL::INTEGER AS shared, NULL::FLOAT AS p_before, NULL::FLOAT AS p_suppressed, NULL::FLOAT AS p_amplified');
CREATE OR REPLACE VIEW methods AS FROM query(getvariable('methods'));

SET VARIABLE synonymy = optional_table('synonymy', '
    NULL::VARCHAR AS fact_id, NULL::VARCHAR AS new_object, NULL::FLOAT AS remove, NULL::FLOAT AS add,
    NULL::VARCHAR AS "group", NULL::VARCHAR AS asked, NULL::BOOLEAN AS synonym, NULL::VARCHAR AS template_id,
    NULL::INTEGER AS n_neurons, NULL::FLOAT AS p_old_before, NULL::FLOAT AS p_old_after, NULL::INTEGER AS
    rank_old_before, NULL::INTEGER AS rank_old_after, NULL::FLOAT AS p_new_before, NULL::FLOAT AS p_new_after,
    NULL::INTEGER AS rank_new_before, NULL::INTEGER AS rank_new_after, NULL::BOOLEAN AS top_changed');
CREATE OR REPLACE VIEW synonymy AS FROM query(getvariable('synonymy'));

SET VARIABLE grammar = optional_table('grammar', '
    NULL::VARCHAR AS phenomenon, NULL::VARCHAR AS pair_id, NULL::VARCHAR AS template_id, NULL::VARCHAR AS
    intervention, NULL::FLOAT AS add, NULL::VARCHAR AS "group", NULL::BOOLEAN AS held_out, NULL::VARCHAR AS
    text, NULL::VARCHAR AS good, NULL::VARCHAR AS bad, NULL::BOOLEAN AS known, NULL::INTEGER AS n_neurons,
    NULL::INTEGER AS n_shared, NULL::FLOAT AS shared_by_chance, NULL::FLOAT AS p_good_before, NULL::FLOAT AS
    p_good_after, NULL::INTEGER AS rank_good_before, NULL::INTEGER AS rank_good_after, NULL::FLOAT AS
    p_bad_before, NULL::FLOAT AS p_bad_after, NULL::INTEGER AS rank_bad_before, NULL::INTEGER AS rank_bad_after');
CREATE OR REPLACE VIEW grammar AS FROM query(getvariable('grammar'));

SET VARIABLE planted = optional_table('planted', '
    NULL::VARCHAR AS fact_id, NULL::INTEGER AS n_planted, NULL::VARCHAR AS method, NULL::VARCHAR AS answer,
    NULL::INTEGER AS seed, NULL::INTEGER AS n_steps, NULL::BOOLEAN AS learned, NULL::FLOAT AS p_before,
    NULL::FLOAT AS p_after, NULL::FLOAT AS share_first, NULL::FLOAT AS p_suppressed, NULL::FLOAT AS recall,
    NULL::FLOAT AS precision, NULL::FLOAT AS auc, NULL::FLOAT AS p_found_suppressed');
CREATE OR REPLACE VIEW planted AS FROM query(getvariable('planted'));

SET VARIABLE planted_summaries = optional_table('planted_summaries', '
    NULL::INTEGER AS n_planted, NULL::VARCHAR AS method, NULL::INTEGER AS n_plantings, NULL::INTEGER AS
    n_left_out, NULL::FLOAT AS chance, NULL::FLOAT AS recall, NULL::FLOAT AS recall_low, NULL::FLOAT AS
    recall_high, NULL::FLOAT AS precision, NULL::FLOAT AS precision_low, NULL::FLOAT AS precision_high,
    NULL::FLOAT AS auc, NULL::FLOAT AS auc_low, NULL::FLOAT AS auc_high, NULL::FLOAT AS fall, NULL::FLOAT AS
    fall_low, NULL::FLOAT AS fall_high');
CREATE OR REPLACE VIEW planted_summaries AS FROM query(getvariable('planted_summaries'));

-- Part 2: derived views -----------------------------------------------------------------------------------------------
-- Comments with a plus hold what collections add, whose tables have a column atlas_id (atlas/store/collection.py).

-- The prompts that ask for facts: those stored in the table, and of facts with none there those that the templates of
-- their relations make, with nulls for what was not measured. Columns as in prompts.
CREATE OR REPLACE VIEW fact_prompts AS
FROM prompts
UNION ALL BY NAME
SELECT /*+ f.atlas_id, */ f.fact_id, t.template_id, replace(t.text, '[X]', f.subject) AS text, t.held_out
FROM facts AS f JOIN templates AS t ON /*+ t.atlas_id = f.atlas_id AND */ t.relation_id = f.relation_id
WHERE f.n_prompts = 0;

-- The facts a neuron carries: layer, neuron, fact_id, relation_id, label, subject, object, known, share, mean_score,
-- max_score.
CREATE OR REPLACE VIEW neuron_facts AS
SELECT /*+ k.atlas_id, */ k.layer, k.neuron, k.fact_id, f.relation_id, r.label, f.subject, f.object, f.known,
       k.share, k.mean_score, k.max_score
FROM knowledge_neurons AS k
JOIN facts AS f ON /*+ f.atlas_id = k.atlas_id AND */ f.fact_id = k.fact_id
LEFT JOIN relations AS r ON /*+ r.atlas_id = k.atlas_id AND */ r.relation_id = f.relation_id;

-- The neurons a relation's facts share: n_facts of its facts have the neuron, which is relation_share of all its facts.
CREATE OR REPLACE VIEW relation_neurons AS
SELECT /*+ k.atlas_id, */ k.relation_id, k.layer, k.neuron, count(*) AS n_facts,
       count(*) / any_value(size.n_facts) AS relation_share, avg(k.share) AS mean_share, avg(k.mean_score) AS mean_score
FROM knowledge_neurons AS k
JOIN (SELECT /*+ atlas_id, */ relation_id, count(*) AS n_facts FROM facts GROUP BY /*+ atlas_id, */ relation_id) AS size
  ON /*+ size.atlas_id = k.atlas_id AND */ size.relation_id = k.relation_id
GROUP BY /*+ k.atlas_id, */ k.relation_id, k.layer, k.neuron
ORDER BY /*+ k.atlas_id, */ k.relation_id, n_facts DESC, k.layer, k.neuron;

-- Mean number of neurons that two different facts share, for every pair of relations in both orders; the diagonal is
-- within a relation. Facts without neurons count. From counts: Σ over neurons of n_a · n_b shared by the pairs.
CREATE OR REPLACE VIEW relation_overlap AS
WITH size AS /*+ NOT MATERIALIZED */ (
    SELECT /*+ atlas_id, */ relation_id, count(*) AS n FROM facts GROUP BY /*+ atlas_id, */ relation_id
), counted AS /*+ NOT MATERIALIZED */ (
    SELECT /*+ atlas_id, */ relation_id, layer, neuron, count(*) AS n
    FROM knowledge_neurons GROUP BY /*+ atlas_id, */ relation_id, layer, neuron
), shared AS (
    SELECT /*+ a.atlas_id, */ a.relation_id AS relation_a, b.relation_id AS relation_b,
           CASE WHEN a.relation_id = b.relation_id THEN sum(a.n * (a.n - 1)) / 2 ELSE sum(a.n * b.n) END AS n_shared
    FROM counted AS a JOIN counted AS b USING (/*+ atlas_id, */ layer, neuron)
    GROUP BY /*+ a.atlas_id, */ a.relation_id, b.relation_id
), pairs AS (
    SELECT /*+ a.atlas_id, */ a.relation_id AS relation_a, b.relation_id AS relation_b,
           CASE WHEN a.relation_id = b.relation_id THEN a.n * (a.n - 1) // 2 ELSE a.n * b.n END AS n_pairs
    FROM size AS a CROSS JOIN size AS b /*+ WHERE a.atlas_id = b.atlas_id */
)
SELECT /*+ atlas_id, */ relation_a, relation_b, relation_a = relation_b AS within, n_pairs,
       coalesce(n_shared, 0)::DOUBLE / nullif(n_pairs, 0) AS mean_shared
FROM pairs LEFT JOIN shared USING (/*+ atlas_id, */ relation_a, relation_b)
ORDER BY /*+ atlas_id, */ relation_a, relation_b;

-- Neurons of more than one relation, those of most relations first; fact_share is of all facts that have neurons.
CREATE OR REPLACE VIEW hub_neurons AS
SELECT /*+ k.atlas_id, */ k.layer, k.neuron, count(*) AS n_facts, count(DISTINCT k.relation_id) AS n_relations,
       count(*) / any_value(every.n_facts) AS fact_share
FROM knowledge_neurons AS k
JOIN (SELECT /*+ atlas_id, */ count(DISTINCT fact_id) AS n_facts
      FROM knowledge_neurons /*+ GROUP BY atlas_id */) AS every
  ON /*+ every.atlas_id = k.atlas_id AND */ true
GROUP BY /*+ k.atlas_id, */ k.layer, k.neuron
HAVING count(DISTINCT k.relation_id) > 1
ORDER BY /*+ k.atlas_id, */ n_relations DESC, n_facts DESC, k.layer, k.neuron;

-- Where in the model they lie: (fact, neuron) pairs, distinct neurons and facts by layer. Layers with none are absent.
CREATE OR REPLACE VIEW layer_histogram AS
SELECT /*+ k.atlas_id, */ k.layer, count(*) AS n_pairs, count(DISTINCT k.neuron) AS n_neurons,
       count(DISTINCT k.fact_id) AS n_facts, count(*) / any_value(every.n_pairs) AS pair_share
FROM knowledge_neurons AS k
JOIN (SELECT /*+ atlas_id, */ count(*) AS n_pairs FROM knowledge_neurons /*+ GROUP BY atlas_id */) AS every
  ON /*+ every.atlas_id = k.atlas_id AND */ true
GROUP BY /*+ k.atlas_id, */ k.layer
ORDER BY /*+ k.atlas_id, */ k.layer;
